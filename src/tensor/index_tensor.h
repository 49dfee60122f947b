// A tensor of ids, rows or positions.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

namespace lockstep {

/// Shapes: N values -> [N] int64.
inline at::Tensor index_tensor(std::span<const int64_t> values) {
  at::Tensor made =
      at::empty({static_cast<int64_t>(values.size())}, at::TensorOptions().dtype(at::kLong));
  std::copy(values.begin(), values.end(), made.mutable_data_ptr<int64_t>());
  return made;
}

}  // namespace lockstep
