// Runs SplitMix64 over the indices, which is cheap and good enough to test arithmetic.
// SPDX-License-Identifier: Apache-2.0
#include "cli/noise.h"

#include "tensor/aten.h"
#include "tensor/parallel.h"

namespace lockstep::cli {

at::Tensor noise(const std::vector<int64_t>& shape, at::ScalarType dtype, uint64_t seed) {
  const at::Tensor result = at::empty(shape, at::kFloat);
  float* const values = result.mutable_data_ptr<float>();
  parallel_for(0, result.numel(), 1 << 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      // Source: Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014.
      uint64_t bits = (seed << 40) + static_cast<uint64_t>(i + 1) * 0x9E3779B97F4A7C15ull;
      bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9ull;
      bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBull;
      values[i] = static_cast<float>(static_cast<int32_t>((bits ^ (bits >> 31)) >> 32)) * 0x1p-31f;
    }
  });
  return result.to(dtype);
}

}  // namespace lockstep::cli
