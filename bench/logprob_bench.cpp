// Rates of the ops at the end of a step: log-probabilities, sampling, AdamW, and the experts'
// products.
// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include <benchmark/benchmark.h>

#include <ATen/CPUGeneratorImpl.h>

#include "bench/processor_peak.h"
#include "ops/adamw.h"
#include "ops/moe.h"
#include "ops/sampling.h"
#include "ops/token_logprob.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"

namespace lockstep::ops {
namespace {

at::Generator generator() { return at::detail::createCPUGenerator(1); }

at::Tensor normal(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::randn(shape, generator(), at::TensorOptions().dtype(at::kFloat)).to(dtype);
}

constexpr int64_t kVocabulary = 248320, kModelDim = 1024;

struct HeadCase {
  at::Tensor hidden, targets;
  VocabularyHead head;
};

HeadCase head_case(int64_t rows) {
  HeadCase c{normal({rows, kModelDim}, at::kBFloat16),
             at::randint(0, kVocabulary, {rows}, generator(), at::TensorOptions().dtype(at::kLong)),
             VocabularyHead(normal({kVocabulary, kModelDim}, at::kBFloat16) / 32)};
  c.head.pack();
  return c;
}

void token_logprobs_forward(benchmark::State& state) {
  const int64_t rows = state.range(0);
  const auto c = head_case(rows);
  for (auto _ : state) token_logprobs(c.hidden, c.head, c.targets, 1, state.range(1) != 0);
  state.counters["GFLOP/s"] =
      benchmark::Counter(2e-9 * static_cast<double>(rows * kVocabulary * kModelDim),
                         benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(token_logprobs_forward)
    ->Args({1, 0})
    ->Args({64, 0})
    ->Args({1024, 0})
    ->Args({1024, 1})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

void token_logprobs_backward(benchmark::State& state) {
  const int64_t rows = state.range(0);
  auto c = head_case(rows);
  c.hidden.set_requires_grad(true);
  c.head.weight.set_requires_grad(true);
  const auto ones = at::ones({rows});
  for (auto _ : state) {
    state.PauseTiming();
    const auto out = token_logprobs(c.hidden, c.head, c.targets, 1, false);
    state.ResumeTiming();
    gradients({out.logprobs}, {c.hidden, c.head.weight}, {ones});
  }
  state.counters["GFLOP/s"] =
      benchmark::Counter(6e-9 * static_cast<double>(rows * kVocabulary * kModelDim),
                         benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(token_logprobs_backward)->Arg(1024)->UseRealTime()->Unit(benchmark::kMillisecond);

void log_sum_exp_of_logits(benchmark::State& state) {
  const auto logits = normal({32, kVocabulary}, at::kFloat);
  const auto targets = at::zeros({32}, at::TensorOptions().dtype(at::kLong));
  for (auto _ : state) logprobs_of_logits(logits, targets, 1);
  state.SetItemsProcessed(state.iterations() * logits.numel());
}
BENCHMARK(log_sum_exp_of_logits)->UseRealTime()->Unit(benchmark::kMillisecond);

void sampling(benchmark::State& state, const SamplingParameters& parameters) {
  const auto logits = normal({kVocabulary}, at::kFloat) * 3;
  const std::span<const float> row(logits.const_data_ptr<float>(), kVocabulary);
  double uniform = 0.1;
  for (auto _ : state) {
    benchmark::DoNotOptimize(sample_token(row, parameters, {}, uniform));
    uniform = uniform < 0.9 ? uniform + 0.07 : 0.1;
  }
}
BENCHMARK_CAPTURE(sampling, plain, SamplingParameters{})->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(sampling, greedy, SamplingParameters{.temperature = 0})
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(sampling, top_k_20, SamplingParameters{.top_k = 20})
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(sampling, top_p_95, SamplingParameters{.top_p = 0.95})
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(sampling, cold_top_p_95, SamplingParameters{.temperature = 0.4, .top_p = 0.95})
    ->Unit(benchmark::kMicrosecond);

void adamw(benchmark::State& state) {
  const int64_t count = 64 << 20;
  const auto master = normal({count}, at::kFloat), m = at::zeros({count}), v = at::zeros({count});
  const auto weight = master.to(at::kBFloat16), gradient = normal({count}, at::kBFloat16);
  for (auto _ : state) adamw_step(weight, master, m, v, gradient, {.learning_rate = 1e-6});
  state.SetBytesProcessed(state.iterations() * count * (3 * 8 + 2 + 2));
}
BENCHMARK(adamw)->UseRealTime()->Unit(benchmark::kMillisecond);

void norm(benchmark::State& state) {
  const auto gradient = normal({64 << 20}, at::kFloat);
  for (auto _ : state) benchmark::DoNotOptimize(sum_of_squares(gradient));
  state.SetBytesProcessed(state.iterations() * gradient.numel() * 4);
}
BENCHMARK(norm)->UseRealTime()->Unit(benchmark::kMillisecond);

/// Args: tokens, whether gradients are taken. Experts of Qwen3-30B-A3B: 8 of 128, D 2048, F 768
/// (1.2 GB).
void moe(benchmark::State& state) {
  const int64_t tokens = state.range(0), num_experts = 128, width = 768, model_dim = 2048;
  const bool with_gradients = state.range(1) != 0;
  const auto x = normal({tokens, model_dim}, at::kBFloat16).set_requires_grad(with_gradients);
  const auto gate_up = normal({num_experts, 2 * width, model_dim}, at::kBFloat16).div_(45);
  const auto down = normal({num_experts, model_dim, width}, at::kBFloat16).div_(28);
  gate_up.set_requires_grad(with_gradients);
  down.set_requires_grad(with_gradients);
  const auto routing = route(normal({tokens, num_experts}, at::kBFloat16), 8, true);
  const auto ones = at::ones_like(x);
  const auto gate_up_bank = ExpertBank::packed(gate_up), down_bank = ExpertBank::packed(down);
  for (auto _ : state) {
    const auto out = experts(x, routing, gate_up_bank, down_bank);
    if (with_gradients) gradients({out}, {x, gate_up, down}, {ones});
  }
  const double products = with_gradients ? 3 : 1;
  state.counters["GFLOP/s"] =
      benchmark::Counter(products * 2e-9 * static_cast<double>(tokens * 8 * 3 * width * model_dim),
                         benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(moe)->Args({1, 0})->Args({64, 0})->Args({2048, 0})->Args({2048, 1})->UseRealTime()->Unit(
    benchmark::kMillisecond);

}  // namespace
}  // namespace lockstep::ops

int main(int argc, char** argv) {
  lockstep::bench::choose_vector_target();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
