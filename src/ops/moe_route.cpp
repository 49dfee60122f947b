// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include "base/check.h"
#include "base/op_timer.h"
#include "ops/cpu/moe.h"
#include "ops/kernel_data.h"
#include "ops/moe.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"

namespace lockstep::ops {
namespace {

constexpr int64_t kRowGrain = 64;

/// Calls row(T{}, index, scratch of E floats) for each row of logits, in parallel.
template <class Row>
void for_each_row(const at::Tensor& logits, const Row& row) {
  for_dtype(logits.scalar_type(), "route", [&](auto tag) {
    at::parallel_for(0, logits.size(0), kRowGrain, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(static_cast<size_t>(logits.size(1)));
      for (int64_t i = begin; i < end; ++i) row(tag, i, scratch.data());
    });
  });
}

Routing forward(const at::Tensor& logits, const cpu::RouteShape& shape) {
  const int64_t rows = logits.size(0);
  Routing routing{at::empty({rows, shape.num_chosen}, logits.options()),
                  at::empty({rows, shape.num_chosen}, logits.options().dtype(at::kLong))};
  for_each_row(logits, [&](auto tag, int64_t i, float* scratch) {
    using T = decltype(tag);
    cpu::route_row(const_elements<T>(logits) + i * shape.num_experts, shape, scratch,
                   elements<T>(routing.weights) + i * shape.num_chosen,
                   elements<int64_t>(routing.experts) + i * shape.num_chosen);
  });
  return routing;
}

at::Tensor backward(const at::Tensor& logits,
                    const at::Tensor& experts,
                    const at::Tensor& dweights,
                    const cpu::RouteShape& shape) {
  const at::Tensor dlogits = at::empty(logits.sizes(), logits.options());
  const at::Tensor dw = dweights.contiguous();
  for_each_row(logits, [&](auto tag, int64_t i, float* scratch) {
    using T = decltype(tag);
    cpu::route_backward_row(const_elements<T>(logits) + i * shape.num_experts,
                            const_elements<int64_t>(experts) + i * shape.num_chosen,
                            const_elements<T>(dw) + i * shape.num_chosen, shape, scratch,
                            elements<T>(dlogits) + i * shape.num_experts);
  });
  return dlogits;
}

}  // namespace

Routing route(const at::Tensor& logits, int64_t num_chosen, bool renormalize) {
  const OpTimer timer("route");
  if (logits.dim() != 2 || num_chosen < 1 || num_chosen > logits.size(1))
    fail<ShapeError>("bad-shape", "route", "expected logits [T, E] with E >= {} >= 1, got {}",
                     num_chosen, shape_text(logits));
  const cpu::RouteShape shape{logits.size(1), num_chosen, renormalize};
  Routing routing;
  at::Tensor values;
  {
    at::NoGradGuard no_grad;
    values = logits.detach().contiguous();
    routing = forward(values, shape);
  }
  if (!wants_gradient({logits})) return routing;
  const at::Tensor experts = routing.experts;
  routing.weights = attach_backward(
      {logits}, {routing.weights}, [values, experts, shape](const auto& dweights, const auto&) {
        std::vector<at::Tensor> gradients(1);
        if (dweights[0].defined()) gradients[0] = backward(values, experts, dweights[0], shape);
        return gradients;
      })[0];
  return routing;
}

}  // namespace lockstep::ops
