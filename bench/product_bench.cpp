// Rates of products with weights in panels: few rows and many, weights from the caches and from
// main memory.
// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include <benchmark/benchmark.h>

#include <ATen/CPUGeneratorImpl.h>

#include "bench/processor_peak.h"
#include "ops/panel_product.h"
#include "tensor/aten.h"

namespace lockstep::ops {
namespace {

/// More than the last-level cache of one socket.
constexpr int64_t kColdBytes = 256 << 20;

/// Args: rows, inputs, outputs, whether each product finds its weight in main memory, as the layers
/// of a decode do.
void panel_products(benchmark::State& state, at::ScalarType dtype) {
  const int64_t rows = state.range(0), inputs = state.range(1), outputs = state.range(2);
  at::Generator generator = at::detail::createCPUGenerator(1);
  const auto normal = [&](at::IntArrayRef shape) {
    return at::randn(shape, generator, at::TensorOptions().dtype(at::kFloat)).to(dtype);
  };
  const at::Tensor x = normal({rows, inputs}), weight = normal({outputs, inputs});
  const int64_t bytes = weight.numel() * weight.element_size();
  std::vector<at::Tensor> panels(static_cast<size_t>(state.range(3) ? kColdBytes / bytes + 1 : 1));
  for (at::Tensor& copy : panels) copy = pack_panels(weight);
  size_t next = 0;
  for (auto _ : state) {
    panel_product(x, panels[next], outputs);
    next = (next + 1) % panels.size();
  }
  state.counters["GFLOP/s"] =
      benchmark::Counter(2e-9 * static_cast<double>(rows * inputs * outputs),
                         benchmark::Counter::kIsIterationInvariantRate);
  state.counters["GB/s"] = benchmark::Counter(1e-9 * static_cast<double>(bytes),
                                              benchmark::Counter::kIsIterationInvariantRate);
}
const auto kShapes = {std::pair{256, 1024}, {1024, 256}, {768, 5120}, {2560, 768}};
void shapes(benchmark::internal::Benchmark* bench) {
  for (const auto& [inputs, outputs] : kShapes)
    for (const int64_t rows : {1, 4, 8, 16, 32, 64, 512})
      for (const int64_t is_cold : {0, 1}) bench->Args({rows, inputs, outputs, is_cold});
  bench->UseRealTime()->Unit(benchmark::kMicrosecond);
}
BENCHMARK_CAPTURE(panel_products, float32, at::kFloat)->Apply(shapes);
BENCHMARK_CAPTURE(panel_products, bfloat16, at::kBFloat16)->Apply(shapes);

}  // namespace
}  // namespace lockstep::ops

int main(int argc, char** argv) {
  lockstep::bench::choose_vector_target();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
