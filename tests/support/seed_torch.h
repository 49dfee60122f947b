// The generator behind at::Tensor::uniform_, at::randn and the like.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <ATen/CPUGeneratorImpl.h>

namespace lockstep::testing {

inline void seed_torch(uint64_t seed) {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  generator.set_current_seed(seed);
}

}  // namespace lockstep::testing
