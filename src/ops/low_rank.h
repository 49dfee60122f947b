// Low-rank additions to products with weights: the B A of adapters.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T packed tokens, N of them with this adapter, I inputs, O outputs, R rank.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "ops/linear.h"

namespace lockstep::ops {

/// scale B A beside a weight [O', I], on a range of its output rows.
struct LowRank {
  /// [R, I] and [O, R], float32; packed as LinearWeight::pack() says.
  LinearWeight a, b;
  double scale = 1;
  /// The weight's row to which B's first row belongs.
  int64_t first_row = 0;

  void pack() {
    a.pack();
    b.pack();
  }
};

/// Adds scale B A x to columns [first_row, first_row + O) of the given rows of y, in y's memory:
/// y is what linear() has just made, and is used up.
///
/// Shapes: y [T, O'], x [T, I] in y's dtype; rows [N] int64, ascending, or undefined: all.
/// Returns: [T, O'], the sum.
/// Numerics: A x and B (A x) in float32, as are their weights; the sum with y is made in float32
///   and rounded once to y's dtype, as in PEFT's forward. A row's bits depend on that row alone.
/// Gradients: for y, x, A and B.
/// Throws: ShapeError.
at::Tensor add_low_rank_(const at::Tensor& y,
                         const at::Tensor& x,
                         const LowRank& pair,
                         const at::Tensor& rows);

}  // namespace lockstep::ops
