// Matrix products with weights, through a handle that also holds the weight's packed form.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T packed tokens, I inputs, O outputs (docs/shapes.md).
#pragma once

#include <ATen/core/Tensor.h>

namespace lockstep::ops {

/// A weight [O, I] as stored in the checkpoint, and a derived form that makes its products fast and row-independent.
///
/// The packed form belongs to the canonical values at the moment of pack(): whoever changes them calls pack() again
/// (train::Trainer does so after each optimizer step). Threads: pack() from the owner; linear() from any thread.
struct LinearWeight {
  at::Tensor weight;  ///< [O, I], float32 or bfloat16; the canonical tensor, a leaf when trained.
  at::Tensor packed;  ///< oneDNN's opaque form; undefined until pack(), and for other dtypes.

  LinearWeight() = default;
  explicit LinearWeight(at::Tensor canonical) : weight(std::move(canonical)) {}
  /// Builds or rebuilds the packed form from the canonical tensor.
  void pack();
};

/// x W^T.
///
/// Shapes: x [T, I] -> [T, O], in x's dtype, which is the weight's.
/// Numerics: with the packed form a row's bits depend on that row alone (T >= 1), not on
///   T, its place or the thread count: products whose bits would differ at few rows are filled up (linear.cpp). Without it
///   at::linear is used.
/// Gradients: dx = dy W and dW = dy^T x, by plain products on the canonical tensor.
/// Throws: ShapeError.
at::Tensor linear(const at::Tensor& x, const LinearWeight& weight);

}  // namespace lockstep::ops
