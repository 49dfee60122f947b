// SPDX-License-Identifier: Apache-2.0
#include "ops/reference/moe.h"

#include <ATen/ops/argsort.h>

#include "tensor/aten.h"

namespace lockstep::ops::reference {

Routing route(const at::Tensor& logits, int64_t num_chosen, bool renormalize) {
  const at::Tensor p = at::softmax(logits, /*dim=*/1);
  // A stable sort leaves ties in order of ids.
  const at::Tensor order = at::argsort(p.detach(), /*stable=*/true, /*dim=*/1, /*descending=*/true);
  Routing routing;
  routing.experts = order.narrow(1, 0, num_chosen);
  routing.weights = at::gather(p, 1, routing.experts);
  if (renormalize) routing.weights = routing.weights / routing.weights.sum(1, /*keepdim=*/true);
  return routing;
}

at::Tensor experts(const at::Tensor& x,
                   const Routing& routing,
                   const at::Tensor& gate_up,
                   const at::Tensor& down) {
  at::Tensor out = at::zeros_like(x);
  const int64_t width = down.size(2);
  for (int64_t k = 0; k < routing.experts.size(1); ++k) {
    const at::Tensor id = routing.experts.select(1, k);
    const at::Tensor hidden = at::bmm(gate_up.index_select(0, id), x.unsqueeze(2)).squeeze(2);
    const at::Tensor activated =
        at::silu(hidden.narrow(1, 0, width)) * hidden.narrow(1, width, width);
    const at::Tensor y = at::bmm(down.index_select(0, id), activated.unsqueeze(2)).squeeze(2);
    out = out + routing.weights.select(1, k).unsqueeze(1) * y;
  }
  return out;
}

}  // namespace lockstep::ops::reference
