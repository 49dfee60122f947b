// What a step's gradients are summed in: float32 tensors, and for an embedding the rows of the
// tokens that came.
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
/// The gradient in `right` may be of another float type, and may be taken over: the caller does not
/// use it again.
void add_to(TensorSum& left, TensorSum right);

/// The gradient of an embedding, which is zero but for the rows of a few thousand of its ids.
struct RowSums {
  /// Ascending.
  std::vector<int64_t> ids;
  /// [ids, D] float32
  at::Tensor rows;
};
/// Shapes: ids [T] int64, gradient [T, D]. Rows of equal ids are added in float32, in order of
/// tokens.
RowSums sum_rows(const at::Tensor& ids, const at::Tensor& gradient);
void add_to(RowSums& left, RowSums right);
/// Adds the rows to a dense gradient [V, D] float32.
void add_rows(const RowSums& sums, const at::Tensor& dense);

}  // namespace lockstep::train
