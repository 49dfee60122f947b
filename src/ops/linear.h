// Matrix products with weights, through a handle that also holds the weight's packed form.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T packed tokens, I inputs, O outputs (docs/shapes.md).
#pragma once

#include <cstdint>
#include <utility>

#include <ATen/core/Tensor.h>

namespace lockstep::ops {

/// Which product reads a packed weight.
enum class PackedForm : uint8_t {
  kNone,    ///< Not packed: at::linear, whose rows may depend on their number.
  kPanels,  ///< Our own kernel (panel_product.h): float32, and bfloat16 where the processor has no instructions for it.
  kLibrary,  ///< oneDNN (library_product.h): bfloat16 where it is native and a probe found rows independent.
};

/// A weight [O, I] as stored in the checkpoint, and a derived form that makes its products fast and row-independent.
///
/// The packed form belongs to the canonical values at the moment of pack(): whoever changes them calls pack() again
/// (train::AdamW does so after each step). Threads: pack() from the owner; linear() from any thread.
struct LinearWeight {
  at::Tensor weight;  ///< [O, I], float32 or bfloat16; the canonical tensor, a leaf when trained.
  at::Tensor packed;  ///< The derived form; undefined until pack(), and for other dtypes.
  PackedForm form = PackedForm::kNone;

  LinearWeight() = default;
  explicit LinearWeight(at::Tensor canonical) : weight(std::move(canonical)) {}
  /// Builds or rebuilds the packed form from the canonical tensor; panels keep their address.
  void pack();
};

/// x W^T.
///
/// Shapes: x [T, I] -> [T, O], in x's dtype, which is the weight's.
/// Numerics: with a packed form a row's bits depend on that row alone (T >= 1), not on T, its place or the thread count: by
///   construction with panels, by a probe with the library's. Without one at::linear is used.
/// Gradients: dx = dy W and dW = dy^T x, by backward_product on the canonical tensor.
/// Throws: ShapeError.
at::Tensor linear(const at::Tensor& x, const LinearWeight& weight);

/// a b, for backward passes: by libtorch, or by panels packed on the way where libtorch is slow (bfloat16 that is not
/// native). Row-independence is not promised.
///
/// Shapes: a [M, K], b [K, N], any strides -> [M, N] in their dtype; sums in float32.
at::Tensor backward_product(const at::Tensor& a, const at::Tensor& b);
/// The same, written to `out` [M, N] with dense rows.
void backward_product_out(at::Tensor& out, const at::Tensor& a, const at::Tensor& b);

}  // namespace lockstep::ops
