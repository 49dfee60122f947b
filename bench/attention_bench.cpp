// Rates of causal_attention, its backward, and paged_attention at decode.
// SPDX-License-Identifier: Apache-2.0
//
// Arguments: sequences, tokens each (keys at decode), H, Hkv, Dh. Rates count causal products only:
// 2 Dh H for each query, key and product.
#include <cmath>

#include <benchmark/benchmark.h>

#include "bench/processor_peak.h"
#include "ops/attention.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"

namespace lockstep::ops {
namespace {

struct Problem {
  explicit Problem(const benchmark::State& state)
      : count(state.range(0)),
        length(state.range(1)),
        heads(state.range(2)),
        kv_heads(state.range(3)),
        head_dim(state.range(4)),
        scale(1 / std::sqrt(static_cast<double>(head_dim))) {}

  at::Tensor tensor(at::IntArrayRef shape) const {
    return at::empty(shape, at::kFloat).uniform_(-1, 1).to(at::kBFloat16);
  }
  double flops_a_product() const {
    return static_cast<double>(count * heads * head_dim) *
           static_cast<double>(length * (length + 1));
  }

  int64_t count, length, heads, kv_heads, head_dim;
  double scale;
};

void set_rate(benchmark::State& state, double flops) {
  state.counters["GFLOP/s"] = benchmark::Counter(
      flops * 1e-9 * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

struct Packed : Problem {
  explicit Packed(const benchmark::State& state) : Problem(state) {
    for (int64_t b = 0; b < count; ++b) sequences.append(length);
    q = tensor({count * length, heads, head_dim});
    k = tensor({count * length, kv_heads, head_dim});
    v = tensor({count * length, kv_heads, head_dim});
  }
  at::Tensor run() const { return causal_attention(q, k, v, sequences, scale); }

  PackedSequences sequences;
  at::Tensor q, k, v;
};

void BM_CausalAttention(benchmark::State& state) {
  const Packed problem(state);
  for (auto _ : state) benchmark::DoNotOptimize(problem.run());
  set_rate(state, 2 * problem.flops_a_product());
}

void BM_CausalAttentionBackward(benchmark::State& state) {
  Packed problem(state);
  for (auto* x : {&problem.q, &problem.k, &problem.v}) x->set_requires_grad(true);
  const auto doutput = problem.tensor(problem.q.sizes());
  for (auto _ : state) {
    state.PauseTiming();
    const auto output = problem.run();
    state.ResumeTiming();
    benchmark::DoNotOptimize(gradients({output}, {problem.q, problem.k, problem.v}, {doutput}));
  }
  set_rate(state, 5 * problem.flops_a_product());
}

/// One new token a sequence.
void BM_PagedDecode(benchmark::State& state) {
  constexpr int64_t kPageSize = 16;
  const Problem problem(state);
  PagedBatch batch;
  batch.max_blocks = (problem.length + kPageSize - 1) / kPageSize;
  for (int64_t b = 0; b < problem.count; ++b) {
    batch.sequences.append(1);
    batch.context_lengths.push_back(static_cast<int32_t>(problem.length));
  }
  for (int64_t i = 0; i < problem.count * batch.max_blocks; ++i)
    batch.block_table.push_back(static_cast<int32_t>(i));
  const auto cache_shape = {problem.count * batch.max_blocks, problem.kv_heads, kPageSize,
                            problem.head_dim};
  const auto k = problem.tensor(cache_shape), v = problem.tensor(cache_shape);
  const auto q = problem.tensor({problem.count, problem.heads, problem.head_dim});
  for (auto _ : state) benchmark::DoNotOptimize(paged_attention(q, k, v, batch, problem.scale));
  state.SetBytesProcessed(state.iterations() * problem.count * problem.length * problem.kv_heads *
                          problem.head_dim * 4);
}

BENCHMARK(BM_CausalAttention)
    ->Args({64, 100, 16, 8, 64})
    ->Args({64, 100, 16, 8, 128})
    ->Args({64, 100, 8, 2, 256})
    ->Args({1, 4096, 16, 8, 128})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(BM_CausalAttentionBackward)
    ->Args({64, 100, 16, 8, 64})
    ->Args({64, 100, 16, 8, 128})
    ->Args({64, 100, 8, 2, 256})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(BM_PagedDecode)
    ->Args({64, 100, 16, 8, 64})
    ->Args({64, 100, 16, 8, 128})
    ->Args({64, 100, 8, 2, 256})
    ->Args({64, 2048, 16, 8, 128})
    ->Args({1, 2048, 16, 8, 128})
    ->Args({512, 100, 2, 1, 128})
    ->Args({8, 100, 16, 8, 128})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace lockstep::ops

int main(int argc, char** argv) {
  lockstep::bench::choose_vector_target();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
