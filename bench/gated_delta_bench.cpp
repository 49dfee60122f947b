// The linear-attention layer's ops at the shapes of a 0.8-billion-parameter Qwen3.5, on the threads
// that libtorch has.
// SPDX-License-Identifier: Apache-2.0
//
// `us_per_head_token` is time on one thread's core per value head and token, if run with
// OMP_NUM_THREADS=1.
#include <benchmark/benchmark.h>

#include "bench/processor_peak.h"
#include "ops/causal_conv.h"
#include "ops/gated_delta.h"
#include "ops/rms_norm.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"

namespace lockstep::ops {
namespace {

constexpr int64_t kHeads = 16, kDim = 128, kChannels = 3 * kHeads * kDim;

GatedDeltaInputs make_inputs(int64_t tokens, at::ScalarType dtype) {
  const auto normal = [&] { return at::randn({tokens, kHeads, kDim}, at::kFloat).to(dtype); };
  return {normal(), normal(), normal(), -at::randn({tokens, kHeads}, at::kFloat).abs() * 0.1,
          at::randn({tokens, kHeads}, at::kFloat).sigmoid()};
}

/// `count` sequences of `length` tokens.
PackedSequences make_sequences(int64_t count, int64_t length) {
  PackedSequences out;
  for (int64_t b = 0; b < count; ++b) out.append(length);
  return out;
}

void report(benchmark::State& state, int64_t tokens) {
  const double head_tokens = static_cast<double>(tokens * kHeads);
  state.counters["us_per_head_token"] =
      benchmark::Counter(head_tokens * 1e-6, benchmark::Counter::kIsIterationInvariantRate |
                                                 benchmark::Counter::kInvert);
  state.SetItemsProcessed(state.iterations() * tokens);
}

void forward(benchmark::State& state) {
  const auto sequences = make_sequences(state.range(0), state.range(1));
  const auto inputs = make_inputs(sequences.tokens(), at::kBFloat16);
  for (auto _ : state) benchmark::DoNotOptimize(gated_delta_rule(inputs, sequences));
  report(state, sequences.tokens());
}

void chunked(benchmark::State& state) {
  const auto sequences = make_sequences(state.range(0), state.range(1));
  const auto inputs = make_inputs(sequences.tokens(), at::kBFloat16);
  for (auto _ : state) benchmark::DoNotOptimize(gated_delta_rule_chunked(inputs, sequences));
  report(state, sequences.tokens());
}

void backward(benchmark::State& state) {
  const auto sequences = make_sequences(state.range(0), state.range(1));
  auto inputs = make_inputs(sequences.tokens(), at::kBFloat16);
  const std::vector<at::Tensor> leaves{inputs.q, inputs.k, inputs.v, inputs.log_decay, inputs.beta};
  for (const at::Tensor& leaf : leaves) leaf.requires_grad_(true);
  for (auto _ : state) {
    state.PauseTiming();
    const at::Tensor out = gated_delta_rule(inputs, sequences).output;
    const at::Tensor gradient = at::ones_like(out);
    state.ResumeTiming();
    benchmark::DoNotOptimize(gradients({out}, leaves, {gradient}));
  }
  report(state, sequences.tokens());
}

/// One token of each of `range(0)` running sequences.
void decode(benchmark::State& state) {
  const int64_t count = state.range(0);
  const auto sequences = make_sequences(count, 1);
  const auto inputs = make_inputs(count, at::kBFloat16);
  const at::Tensor pool = at::zeros({count, kHeads, kDim, kDim}, at::kFloat);
  std::vector<int64_t> slots(static_cast<size_t>(count));
  for (int64_t b = 0; b < count; ++b) slots[static_cast<size_t>(b)] = b;
  for (auto _ : state)
    benchmark::DoNotOptimize(gated_delta_rule_cached(inputs, sequences, pool, slots));
  report(state, count);
  state.SetBytesProcessed(state.iterations() * 2 *
                          static_cast<int64_t>(pool.nbytes()));  // read and written
}

void conv_forward(benchmark::State& state) {
  const auto sequences = make_sequences(state.range(0), state.range(1));
  const at::Tensor x = at::randn({sequences.tokens(), kChannels}, at::kFloat).to(at::kBFloat16);
  const at::Tensor weight = at::randn({kChannels, 1, 4}, at::kFloat).to(at::kBFloat16);
  for (auto _ : state) benchmark::DoNotOptimize(causal_conv(x, weight, sequences));
  state.SetBytesProcessed(state.iterations() * 2 * static_cast<int64_t>(x.nbytes()));
}

void conv_backward(benchmark::State& state) {
  const auto sequences = make_sequences(state.range(0), state.range(1));
  const at::Tensor x =
      at::randn({sequences.tokens(), kChannels}, at::kFloat).to(at::kBFloat16).requires_grad_(true);
  const at::Tensor weight =
      at::randn({kChannels, 1, 4}, at::kFloat).to(at::kBFloat16).requires_grad_(true);
  const at::Tensor gradient = at::ones_like(x);
  for (auto _ : state) {
    state.PauseTiming();
    const at::Tensor out = causal_conv(x, weight, sequences);
    state.ResumeTiming();
    benchmark::DoNotOptimize(gradients({out}, {x, weight}, {gradient}));
  }
  state.SetBytesProcessed(state.iterations() * 3 * static_cast<int64_t>(x.nbytes()));
}

void norm_forward(benchmark::State& state) {
  const at::Tensor x = at::randn({state.range(0), kHeads, kDim}, at::kFloat).to(at::kBFloat16);
  const at::Tensor z = at::randn({state.range(0), kHeads, kDim}, at::kFloat).to(at::kBFloat16);
  const at::Tensor weight = at::ones({kDim}, at::kFloat);
  for (auto _ : state) benchmark::DoNotOptimize(gated_rms_norm(x, z, weight, 1e-6));
  state.SetBytesProcessed(state.iterations() * 3 * static_cast<int64_t>(x.nbytes()));
}

void gates(benchmark::State& state) {
  const at::Tensor a = at::randn({state.range(0), kHeads}, at::kFloat),
                   bias = at::ones({kHeads}, at::kFloat);
  for (auto _ : state) benchmark::DoNotOptimize(gated_delta_gates(a, a, bias, bias));
  state.SetItemsProcessed(state.iterations() * a.numel());
}

BENCHMARK(forward)->Args({1, 1024})->Args({8, 128})->Unit(benchmark::kMillisecond);
BENCHMARK(chunked)->Args({1, 1024})->Args({8, 128})->Unit(benchmark::kMillisecond);
BENCHMARK(backward)->Args({1, 1024})->Args({8, 128})->Unit(benchmark::kMillisecond);
BENCHMARK(decode)->Arg(1)->Arg(8)->Arg(64)->Unit(benchmark::kMillisecond);
BENCHMARK(conv_forward)->Args({1, 1024})->Args({64, 1})->Unit(benchmark::kMillisecond);
BENCHMARK(conv_backward)->Args({1, 1024})->Unit(benchmark::kMillisecond);
BENCHMARK(norm_forward)->Arg(64)->Arg(1024)->Unit(benchmark::kMillisecond);
BENCHMARK(gates)->Arg(64)->Arg(1024)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace lockstep::ops

int main(int argc, char** argv) {
  lockstep::bench::choose_vector_target();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
