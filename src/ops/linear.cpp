// SPDX-License-Identifier: Apache-2.0
#include "ops/linear.h"

#include <algorithm>

#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "base/check.h"
#include "ops/kernel_data.h"  // shape_text
#include "tensor/aten.h"
#include "tensor/autograd.h"

namespace lockstep::ops {
namespace {

/// A operator of libtorch that has no C++ header.
template <class Signature>
c10::TypedOperatorHandle<Signature> find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

at::Tensor reorder(const at::Tensor& weight) {
  static const auto op = find_operator<at::Tensor(const at::Tensor&, std::optional<int64_t>)>(
      "mkldnn::_reorder_linear_weight");
  return op.call(weight, std::nullopt);
}

at::Tensor packed_product(const at::Tensor& x, const at::Tensor& packed) {
  static const auto op = find_operator<at::Tensor(
      const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
      c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>)>(
      "mkldnn::_linear_pointwise");
  return op.call(x, packed, std::nullopt, "none", c10::List<std::optional<at::Scalar>>(), "");
}

/// The rows that a packed product of `rows` rows is computed with. One row takes another path through oneDNN, with other
/// bits; and float32 products with few inputs another one below 16 rows (seen for up to 384 inputs, not from 392 on).
int64_t computed_rows(int64_t rows, const at::Tensor& weight) {
  constexpr int64_t kFewInputs = 512, kManyRows = 16;
  if (weight.scalar_type() == at::kFloat && weight.size(1) < kFewInputs)
    return std::max(rows, kManyRows);
  return std::max<int64_t>(rows, 2);
}

at::Tensor forward(const at::Tensor& x, const LinearWeight& w) {
  if (!w.packed.defined()) return at::linear(x, w.weight);
  const int64_t rows = x.size(0), computed = computed_rows(rows, w.weight);
  if (rows == 0) return at::empty({0, w.weight.size(0)}, x.options());
  if (computed == rows) return packed_product(x.contiguous(), w.packed);
  const at::Tensor padded = at::zeros({computed, x.size(1)}, x.options());
  padded.narrow(0, 0, rows).copy_(x);
  return packed_product(padded, w.packed).narrow(0, 0, rows);
}

}  // namespace

void LinearWeight::pack() {
  packed = at::Tensor();
  const auto dtype = weight.scalar_type();
  if (dtype != at::kFloat && dtype != at::kBFloat16) return;
  at::NoGradGuard no_grad;
  packed = reorder(weight.detach().contiguous());
}

at::Tensor linear(const at::Tensor& x, const LinearWeight& weight) {
  const at::Tensor& w = weight.weight;
  if (x.dim() != 2 || w.dim() != 2 || x.size(1) != w.size(1))
    fail<ShapeError>("bad-shape", "linear", "expected x [T, I] for a weight [O, I] of {}, got {}",
                     shape_text(w), shape_text(x));
  if (x.scalar_type() != w.scalar_type())
    fail<ShapeError>("bad-dtype", "linear", "expected x in the weight's {}, got {}",
                     at::toString(w.scalar_type()), at::toString(x.scalar_type()));
  if (!wants_gradient({x, w})) return forward(x, weight);
  at::Tensor y;
  {
    at::NoGradGuard no_grad;
    y = forward(x, weight);
  }
  return attach_backward({x, w}, {y}, [x, w](const auto& dy, const auto& needs) {
    std::vector<at::Tensor> gradients(2);
    if (!dy[0].defined()) return gradients;
    if (needs[0]) gradients[0] = at::mm(dy[0], w);
    if (needs[1]) gradients[1] = at::mm(dy[0].t(), x);
    return gradients;
  })[0];
}

}  // namespace lockstep::ops
