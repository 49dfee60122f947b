// SPDX-License-Identifier: Apache-2.0
#include "ops/linear.h"

#include "base/check.h"
#include "base/heap.h"
#include "base/op_timer.h"
#include "ops/kernel_data.h"
#include "ops/library_product.h"
#include "ops/panel_product.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"

namespace lockstep::ops {
namespace {

at::Tensor forward(const at::Tensor& x, const LinearWeight& w) {
  switch (w.form) {
    case PackedForm::kPanels:
      return panel_product(x, w.packed, w.weight.size(0));
    case PackedForm::kLibrary:
      return library_product(x, w.packed, w.weight.size(0));
    case PackedForm::kNone:
      break;
  }
  // Any other product may give rows that depend on their number.
  fail<ShapeError>("not-packed", "linear",
                   "expected a weight {} that was packed, got one that was not",
                   shape_text(w.weight));
}

PackedForm form_for(const at::Tensor& weight) {
  check_dtype(weight.scalar_type(), "LinearWeight::pack");
  if (weight.scalar_type() == at::kFloat) return PackedForm::kPanels;
  return has_bfloat16_tiles() && library_rows_are_independent(weight.size(1), weight.size(0))
             ? PackedForm::kLibrary
             : PackedForm::kPanels;
}

}  // namespace

void LinearWeight::pack() {
  LOCKSTEP_CHECK(has_values(weight), "a weight {} is packed that was released", shape_text(weight));
  form = form_for(weight);
  at::NoGradGuard no_grad;
  packed =
      form == PackedForm::kPanels ? pack_panels(weight.detach(), packed) : pack_for_library(weight);
}

/// oneDNN's form is opaque: about as large as the weight.
int64_t LinearWeight::packed_bytes() const {
  return static_cast<int64_t>(form == PackedForm::kPanels ? packed.nbytes() : weight.nbytes());
}

void LinearWeight::drop_packed() {
  if (form == PackedForm::kPanels)
    drop_pages(packed.mutable_data_ptr(), packed.nbytes());
  else
    packed.reset();
}

void LinearWeight::release() {
  LOCKSTEP_CHECK(can_release(), "a weight is released that has no panels");
  weight = without_values(weight);
}

void LinearWeight::take(const at::Tensor& values) {
  LOCKSTEP_CHECK(!has_values(weight) && values.sizes() == weight.sizes() &&
                     values.scalar_type() == weight.scalar_type(),
                 "a weight {} takes {}", shape_text(weight), shape_text(values));
  at::NoGradGuard no_grad;
  packed = pack_panels(values, packed);
}

at::Tensor LinearWeight::values() const {
  return has_values(weight) ? weight : unpack_panels(packed, weight.size(0), weight.size(1));
}

at::Tensor without_values(const at::Tensor& tensor) {
  return at::empty(tensor.sizes(), tensor.options().device(at::kMeta).requires_grad(false));
}

bool has_values(const at::Tensor& tensor) { return !tensor.is_meta(); }

at::Tensor linear(const at::Tensor& x, const LinearWeight& weight) {
  const OpTimer timer("linear");
  const at::Tensor& w = weight.weight;
  if (x.dim() != 2 || w.dim() != 2 || x.size(1) != w.size(1))
    fail<ShapeError>("bad-shape", "linear", "expected x [T, I] for a weight [O, I] of {}, got {}",
                     shape_text(w), shape_text(x));
  if (x.scalar_type() != w.scalar_type())
    fail<ShapeError>("bad-dtype", "linear", "expected x in the weight's {}, got {}",
                     at::toString(w.scalar_type()), at::toString(x.scalar_type()));
  check_dtype(x.scalar_type(), "linear");
  if (!wants_gradient({x, w})) return forward(x, weight);
  at::Tensor y;
  {
    at::NoGradGuard no_grad;
    y = forward(x, weight);
  }
  return attach_backward({x, w}, {y}, [x, weight](const auto& dy, const auto& needs) {
    std::vector<at::Tensor> gradients(2);
    if (!dy[0].defined()) return gradients;
    if (needs[0]) gradients[0] = backward_product(dy[0], weight);
    if (needs[1]) gradients[1] = backward_product(dy[0].t(), x);
    return gradients;
  })[0];
}

BackwardOperand::BackwardOperand(const at::Tensor& b) : value(b.detach()) {
  at::NoGradGuard no_grad;
  const auto dtype = b.scalar_type();
  if (dtype == at::kFloat || (dtype == at::kBFloat16 && !has_bfloat16_tiles()))
    panels = pack_panels(value.t());
}

BackwardOperand::BackwardOperand(const LinearWeight& weight) : value(weight.weight.detach()) {
  at::NoGradGuard no_grad;
  if (weight.form == PackedForm::kPanels)
    panels = transpose_panels(weight.packed, value.size(0), value.size(1));
}

void backward_products(const std::vector<BackwardProduct>& products) {
  at::NoGradGuard no_grad;
  std::vector<PanelOperands> by_panels;
  for (const BackwardProduct& p : products) {
    if (p.b.panels.defined()) {
      by_panels.push_back({p.a.detach(), p.b.panels, p.out, p.adds, true});
    } else if (p.adds) {
      p.out.add_(at::mm(p.a, p.b.value));
    } else {
      at::Tensor out = p.out;
      at::mm_out(out, p.a, p.b.value);
    }
  }
  panel_products(by_panels);
}

at::Tensor backward_product(const at::Tensor& a, const BackwardOperand& b) {
  at::Tensor out = at::empty({a.size(0), b.value.size(1)}, a.options().requires_grad(false));
  backward_products({{out, a, b}});
  return out;
}

}  // namespace lockstep::ops
