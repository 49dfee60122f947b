// SPDX-License-Identifier: Apache-2.0
#include "ops/low_rank.h"

#include "base/check.h"
#include "base/op_timer.h"
#include "ops/kernel_data.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"

namespace lockstep::ops {
namespace {

/// The rows of the pair's part of a tensor [T, O'], which may be all of them.
struct Part {
  const LowRank* pair;
  at::Tensor rows;

  at::Tensor columns(const at::Tensor& y) const {
    return y.narrow(1, pair->first_row, pair->b.weight.size(0));
  }
  at::Tensor select(const at::Tensor& values) const {
    return rows.defined() ? values.index_select(0, rows) : values;
  }
};

void check_shapes(const at::Tensor& y, const at::Tensor& x, const LowRank& pair) {
  const at::Tensor &a = pair.a.weight, &b = pair.b.weight;
  const bool is_right = y.dim() == 2 && x.dim() == 2 && y.size(0) == x.size(0) && a.dim() == 2 &&
                        b.dim() == 2 && a.size(1) == x.size(1) && b.size(1) == a.size(0) &&
                        pair.first_row >= 0 && pair.first_row + b.size(0) <= y.size(1) &&
                        y.scalar_type() == x.scalar_type() && a.scalar_type() == at::kFloat &&
                        b.scalar_type() == at::kFloat;
  if (!is_right)
    fail<ShapeError>(
        "bad-shape", "add_low_rank",
        "expected y [T, O'], x [T, I] of one dtype, A [R, I] and B [O, R] float32 with "
        "{} + O <= O', got {}, {}, {}, {}",
        pair.first_row, shape_text(y), shape_text(x), shape_text(a), shape_text(b));
}

}  // namespace

at::Tensor add_low_rank_(const at::Tensor& y,
                         const at::Tensor& x,
                         const LowRank& pair,
                         const at::Tensor& rows) {
  const OpTimer timer("add_low_rank");
  check_shapes(y, x, pair);
  const Part part{&pair, rows};
  at::Tensor out, low;
  {
    at::NoGradGuard no_grad;
    low = linear(part.select(x.detach()).to(at::kFloat), pair.a);
    // Two roundings, by libtorch's loops that have none of their own at the ends of rows: a product
    // that is added at once would depend on where in the row it stands.
    const at::Tensor added = linear(low, pair.b).mul_(pair.scale);
    out = y.detach();
    at::Tensor to = part.columns(out);
    const at::Tensor sum = part.select(to).to(at::kFloat).add_(added);
    if (rows.defined())
      to.index_copy_(0, rows, sum.to(y.scalar_type()));
    else
      to.copy_(sum);
  }
  if (!wants_gradient({y, x, pair.a.weight, pair.b.weight})) return out;
  return attach_backward(
      {y, x, pair.a.weight, pair.b.weight}, {out},
      [x, low, rows, pair = pair](const auto& dy, const auto& needs) {
        std::vector<at::Tensor> gradients(4);
        if (!dy[0].defined()) return gradients;
        gradients[0] = dy[0];
        const Part own{&pair, rows};
        const at::Tensor dadded =
            own.select(own.columns(dy[0])).to(at::kFloat).mul(pair.scale).contiguous();
        if (needs[3]) gradients[3] = backward_product(dadded.t(), low);
        if (!needs[1] && !needs[2]) return gradients;
        const at::Tensor dlow = backward_product(dadded, pair.b.weight.detach());
        if (needs[2])
          gradients[2] =
              backward_product(dlow.t(), own.select(x.detach()).to(at::kFloat).contiguous());
        if (needs[1]) {
          const at::Tensor dx = backward_product(dlow, pair.a.weight.detach()).to(x.scalar_type());
          gradients[1] = rows.defined() ? at::zeros_like(x.detach()).index_copy_(0, rows, dx) : dx;
        }
        return gradients;
      })[0];
}

}  // namespace lockstep::ops
