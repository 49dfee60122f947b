// How the ops hand tensors to their kernels: raw pointers, one C++ type for each dtype. Internal to
// ops/.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include <fmt/ranges.h>

#include <ATen/core/Tensor.h>

#include "base/check.h"

namespace lockstep::ops {

/// The elements of a tensor of type T: float, or uint16_t for the bits of a bfloat16.
template <class T>
const T* const_elements(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<const T*>(tensor.const_data_ptr()) : nullptr;
}
template <class T>
T* elements(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<T*>(tensor.mutable_data_ptr()) : nullptr;
}

/// Items of `elements` elements each that are worth a thread of their own in an elementwise op:
/// with fewer, waking it takes longer than computing them.
constexpr int64_t thread_grain(int64_t elements) {
  constexpr int64_t kElements = 64 * 1024;
  return std::max<int64_t>(1, kElements / std::max<int64_t>(1, elements));
}

/// Throws ShapeError "bad-dtype" where there is no kernel for this one: float64 belongs to the
/// formulas in ops/reference, which no op runs.
inline void check_dtype(at::ScalarType dtype, const char* op) {
  if (dtype != at::kFloat && dtype != at::kBFloat16)
    fail<ShapeError>("bad-dtype", op, "expected float32 or bfloat16, got {}", at::toString(dtype));
}

/// Calls `kernel` with a float or a uint16_t (bfloat16) as a tag, and returns what it returns.
/// Throws as check_dtype.
template <class Kernel>
auto for_dtype(at::ScalarType dtype, const char* op, Kernel&& kernel) {
  check_dtype(dtype, op);
  if (dtype == at::kFloat) return std::forward<Kernel>(kernel)(float{});
  return std::forward<Kernel>(kernel)(uint16_t{});
}

/// "[3, 4]" for messages.
inline std::string shape_text(const at::Tensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.sizes(), ", "));
}

}  // namespace lockstep::ops
