// Matrix products with weights, through a handle that also holds the weight's packed form.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T packed tokens, I inputs, O outputs (docs/shapes.md).
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep::ops {

/// Which product reads a packed weight.
enum class PackedForm : uint8_t {
  /// Not packed yet: no product reads it.
  kNone,
  /// Our own kernel (panel_product.h): float32, and bfloat16 on all processors without AMX.
  kPanels,
  /// oneDNN (library_product.h): bfloat16 on AMX where a probe found rows independent.
  kLibrary,
};

/// What a table calls it.
constexpr const char* kernel_name(PackedForm form) {
  return form == PackedForm::kPanels    ? "Highway panels"
         : form == PackedForm::kLibrary ? "oneDNN packed"
                                        : "not packed";
}

/// A weight [O, I] as stored in the checkpoint, and a derived form that makes its products fast and
/// row-independent. Backward passes read the derived form too where it is in panels, so that a
/// weight that nobody changes is kept once: release().
///
/// The packed form belongs to the canonical values at the moment of pack(): whoever changes them
/// calls pack() again (train::AdamW does so after each step). Threads: pack() from the owner;
/// linear() from any thread.
struct LinearWeight {
  /// [O, I], float32 or bfloat16; the canonical tensor, a leaf when trained. After release() it has
  /// shape and dtype but no values (libtorch's device "meta").
  at::Tensor weight;
  /// The derived form; undefined until pack().
  at::Tensor packed;
  PackedForm form = PackedForm::kNone;
  /// What a model calls it; its adapters know it by that. -1: nothing.
  int64_t number = -1;

  LinearWeight() = default;
  explicit LinearWeight(at::Tensor canonical) : weight(std::move(canonical)) {}
  /// Builds or rebuilds the packed form from the canonical tensor; panels keep their address.
  void pack();
  int64_t packed_bytes() const;
  /// Gives the memory of the packed form back until the next pack().
  void drop_packed();
  /// Whether release() can let the canonical values go: the panels have them all.
  bool can_release() const { return form == PackedForm::kPanels; }
  /// Lets go of the canonical values, of which this is not the only owner. Needs can_release().
  void release();
  /// After release(): takes other values [O, I] of its dtype into the panels.
  void take(const at::Tensor& values);
  /// The canonical values: `weight`, or after release() a copy, read back from the panels.
  at::Tensor values() const;
};

/// A tensor of that shape and dtype without values, and whether a tensor is one.
at::Tensor without_values(const at::Tensor& tensor);
bool has_values(const at::Tensor& tensor);

/// x W^T.
///
/// Shapes: x [T, I] -> [T, O], in x's dtype, which is the weight's.
/// Numerics: a row's bits depend on that row alone (T >= 1), not on T, its place or the thread
/// count: by construction with panels, by a probe with the library's product.
/// Gradients: dx = dy W and dW = dy^T x, by backward_products.
/// Throws: ShapeError; "not-packed" where pack() was not called.
at::Tensor linear(const at::Tensor& x, const LinearWeight& weight);

/// The right side b [K, N] of products in a backward pass, any strides: packed once, for as many
/// left sides as there are.
struct BackwardOperand {
  /// [K, N]; of a weight that was released without values.
  at::Tensor value;
  /// Undefined: libtorch's product is used (bfloat16 on AMX).
  at::Tensor panels;

  BackwardOperand(const at::Tensor& b);
  /// A weight, from its packed form where that is in panels.
  BackwardOperand(const LinearWeight& weight);
};

/// out = a b, or out += a b. Shapes: a [M, K], b [K, N], any strides; out [M, N], rows dense, in
/// their dtype or float32.
struct BackwardProduct {
  at::Tensor out, a;
  BackwardOperand b;
  bool adds = false;
};

/// Products for backward passes, of one dtype: by panels all together, or one after another by
/// libtorch. Numerics: float32 sums. By panels, in chains of 256 along K, whatever the thread
/// count; row-independence of libtorch's is not
///   promised, and a bfloat16 product of its is rounded before it is added.
void backward_products(const std::vector<BackwardProduct>& products);
/// a b in their dtype.
at::Tensor backward_product(const at::Tensor& a, const BackwardOperand& b);

}  // namespace lockstep::ops
