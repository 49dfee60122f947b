// Tensors of noise for the machine's tests.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep::cli {

/// Uniform values in [-1, 1), which are a function of `seed` and the index alone.
at::Tensor noise(const std::vector<int64_t>& shape, at::ScalarType dtype, uint64_t seed);

}  // namespace lockstep::cli
