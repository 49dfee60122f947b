// SPDX-License-Identifier: Apache-2.0
#include "ops/reference/moe.h"

#include <ATen/ops/argsort.h>
#include <ATen/ops/where.h>

#include "tensor/aten.h"

namespace lockstep::ops::reference {

Routing route(const at::Tensor& logits,
              int64_t num_chosen,
              bool renormalize,
              const GivenExperts& given) {
  const at::Tensor p = at::softmax(logits, /*dim=*/1);
  // A stable sort leaves ties in order of ids.
  const at::Tensor order = at::argsort(p.detach(), /*stable=*/true, /*dim=*/1, /*descending=*/true);
  Routing routing;
  routing.experts = order.narrow(1, 0, num_chosen);
  at::Tensor is_given;
  if (given.experts.defined()) {
    is_given = given.experts.narrow(1, 0, 1).ge(0);
    const at::Tensor own = std::get<0>(routing.experts.sort(1));
    routing.experts = at::where(is_given, given.experts.to(at::kLong), routing.experts);
    routing.changed = std::get<0>(routing.experts.sort(1)).ne(own).any(1);
  }
  routing.weights = at::gather(p, 1, routing.experts);
  if (renormalize) routing.weights = routing.weights / routing.weights.sum(1, /*keepdim=*/true);
  if (given.weights.defined())
    routing.weights = at::where(is_given, given.weights.to(p.scalar_type()), routing.weights);
  return routing;
}

namespace {

/// W_e x, and what the pair adds to it; `id` [T] are the tokens' k-th experts.
at::Tensor product(const at::Tensor& weight,
                   const at::Tensor& x,
                   const at::Tensor& id,
                   const ExpertPair& pair,
                   int64_t k) {
  const auto times = [&](const at::Tensor& bank, const at::Tensor& in) {
    return at::bmm(bank.index_select(0, id), in.unsqueeze(2)).squeeze(2);
  };
  const at::Tensor y = times(weight, x);
  if (!pair.a.defined()) return y;
  return y + pair.scale * times(pair.b, times(pair.a, x * pair.factors[k]));
}

}  // namespace

at::Tensor experts(const at::Tensor& x,
                   const Routing& routing,
                   const at::Tensor& gate_up,
                   const at::Tensor& down,
                   const ExpertPair& gate_up_pair,
                   const ExpertPair& down_pair) {
  at::Tensor out = at::zeros_like(x);
  const int64_t width = down.size(2);
  for (int64_t k = 0; k < routing.experts.size(1); ++k) {
    const at::Tensor id = routing.experts.select(1, k);
    const at::Tensor hidden = product(gate_up, x, id, gate_up_pair, k);
    const at::Tensor activated =
        at::silu(hidden.narrow(1, 0, width)) * hidden.narrow(1, width, width);
    const at::Tensor y = product(down, activated, id, down_pair, k);
    out = out + routing.weights.select(1, k).unsqueeze(1) * y;
  }
  return out;
}

}  // namespace lockstep::ops::reference
