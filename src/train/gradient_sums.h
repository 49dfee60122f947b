// The sums of a step's gradients: float32 tensors, and for an embedding only the rows of the tokens
// that occurred.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep::train {

/// A float32 sum of gradients, or nothing.
struct TensorSum {
  at::Tensor value;
};
/// Adds `right` to `left`. The gradient in `right` may have another float type. Its memory may
/// become that of the sum: the caller does not use it again.
void add_to(TensorSum& left, TensorSum right);

/// The gradient of an embedding, which is zero except for the rows of a few thousand of its ids.
struct RowSums {
  /// In ascending order.
  std::vector<int64_t> ids;
  /// [ids, D] float32
  at::Tensor rows;
};
/// Shapes: ids [T] int64, gradient [T, D]. Rows of equal ids are added in float32, in order of
/// tokens.
RowSums sum_rows(const at::Tensor& ids, const at::Tensor& gradient);
void add_to(RowSums& left, RowSums right);
/// Adds the rows to elements [first, first + n) of a dense gradient [V, D] float32, which are
/// `dense`, [n] or of any other shape.
void add_rows(const RowSums& sums, const at::Tensor& dense, int64_t first = 0);

}  // namespace lockstep::train
