// Low-rank additions to products with weights: the B A of adapters.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T packed tokens, N of them with this adapter, I inputs, O outputs, R rank.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

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
  /// Names the pair among all of an adapter, for dropout.
  uint64_t name = 0;

  void pack() {
    a.pack();
    b.pack();
  }
};

/// What an adapter does not see of its inputs in a training step. Which elements are dropped is a
/// function of the row's key, the pair's name and the element, so a layer that is computed again
/// drops the same ones.
struct Dropout {
  /// Each element is dropped with this probability, and else divided by 1 - rate. 0: nothing is.
  double rate = 0;
  /// [T] int64: one for each row of x.
  at::Tensor keys;
};

/// An adapter's part in a product.
struct LowRankTerm {
  const LowRank* pair = nullptr;
  /// [N] int64, ascending: the rows that have it; undefined: all.
  at::Tensor rows;
  Dropout dropout;
};

/// x W^T, plus scale B A drop(x) in columns [first_row, first_row + O) of each term's rows. Terms
/// are added at once, so no two of them may meet: their columns, or their rows, are apart.
///
/// Shapes: x [T, I] in W's dtype -> [T, O'] in it.
/// Numerics: the product as linear() makes it; A x in float32; then, for each term, a chain of
///   float32 that begins with what stands there and adds (scale A x)_r B_or in the order of r,
///   rounded once to x's dtype. A row's bits depend on that row and its terms alone.
/// Gradients: for x, W, and each A and B.
/// Throws: ShapeError, also "terms-meet" for terms that share columns and have the same rows, or
/// all.
at::Tensor adapted_linear(const at::Tensor& x,
                          const LinearWeight& weight,
                          std::span<const LowRankTerm> terms);

}  // namespace lockstep::ops
