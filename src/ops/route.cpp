// SPDX-License-Identifier: Apache-2.0
//
// Which experts each token gets: those that its router chooses, or given ones.
//
// Shapes: T tokens, E experts, K chosen experts.
#include <algorithm>
#include <vector>

#include "base/check.h"
#include "base/op_timer.h"
#include "ops/cpu/moe.h"
#include "ops/kernel_data.h"
#include "ops/moe.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tensor/parallel.h"

namespace lockstep::ops {
namespace {

/// With fewer rows another thread costs more than it gains.
constexpr int64_t kRowGrain = 64;

/// Calls row(T{}, index, scratch of E floats) for each row of logits, in parallel.
template <class Row>
void for_each_row(const at::Tensor& logits, const Row& row) {
  for_dtype(logits.scalar_type(), "route", [&](auto tag) {
    parallel_for(0, logits.size(0), kRowGrain, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(static_cast<size_t>(logits.size(1)));
      for (int64_t i = begin; i < end; ++i) row(tag, i, scratch.data());
    });
  });
}

Routing choose(const at::Tensor& logits, const cpu::RouteShape& shape) {
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

/// The experts of a row, or null where none are given.
const int32_t* given_row(const at::Tensor& experts, int64_t row) {
  const int32_t* const ids = experts.const_data_ptr<int32_t>() + row * experts.size(1);
  return ids[0] < 0 ? nullptr : ids;
}

void check_given(const GivenExperts& given, const at::Tensor& logits, int64_t num_chosen) {
  const std::vector<int64_t> expected{logits.size(0), num_chosen};
  if (given.experts.sizes() != expected || given.experts.scalar_type() != at::kInt ||
      (given.weights.defined() &&
       (given.weights.sizes() != expected || given.weights.scalar_type() != at::kFloat)))
    fail<ShapeError>("bad-shape", "route", "expected given experts [{}, {}] int32, got {}",
                     logits.size(0), num_chosen, shape_text(given.experts));
  const at::Tensor experts = given.experts.contiguous();
  for (int64_t i = 0; i < logits.size(0); ++i) {
    const int32_t* const ids = given_row(experts, i);
    if (!ids) continue;
    for (int64_t k = 0; k < num_chosen; ++k)
      if (ids[k] < 0 || ids[k] >= logits.size(1) || std::find(ids, ids + k, ids[k]) != ids + k)
        fail<ShapeError>("bad-expert", "route", "expected different ids in [0, {}), got {}",
                         logits.size(1), ids[k]);
  }
}

/// Puts given experts in the place of those that were chosen. `given` is contiguous, and its
/// weights have the logits' dtype.
void replace(const GivenExperts& given,
             const at::Tensor& logits,
             const cpu::RouteShape& shape,
             Routing& routing) {
  const int64_t chosen = shape.num_chosen;
  routing.changed = at::zeros({logits.size(0)}, at::TensorOptions().dtype(at::kByte));
  for_each_row(logits, [&](auto tag, int64_t i, float* scratch) {
    using T = decltype(tag);
    const int32_t* const ids = given_row(given.experts, i);
    if (!ids) return;
    int64_t* const own = elements<int64_t>(routing.experts) + i * chosen;
    // Both have K different ids: one of them has all of the other's, or they differ.
    const bool is_same = std::all_of(own, own + chosen, [&](int64_t id) {
      return std::find(ids, ids + chosen, id) != ids + chosen;
    });
    routing.changed.mutable_data_ptr<uint8_t>()[i] = !is_same;
    std::copy_n(ids, chosen, own);
    T* const to = elements<T>(routing.weights) + i * chosen;
    if (const T* const weights = const_elements<T>(given.weights))
      std::copy_n(weights + i * chosen, chosen, to);
    else
      cpu::weigh_row(const_elements<T>(logits) + i * shape.num_experts, own, shape, scratch, to);
  });
}

/// The gradient of weights, without that of those which were given.
at::Tensor without_given(const at::Tensor& dweights, const GivenExperts& given) {
  if (!given.weights.defined()) return dweights;
  const at::Tensor is_given = given.experts.narrow(1, 0, 1).ge(0);
  return dweights.masked_fill(is_given, 0);
}

at::Tensor choose_backward(const at::Tensor& logits,
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

/// Adds the gradient of a term that is linear in the probabilities: weight p (slope - <p, slope>).
at::Tensor with_term(const at::Tensor& dlogits, const at::Tensor& logits, const RouterTerm& term) {
  const at::Tensor p = router_probabilities(logits);
  const at::Tensor mean = p.mul(term.slopes).sum(1, /*keepdim=*/true);
  return p.mul(term.slopes.sub(mean))
      .mul(term.token_weights.unsqueeze(1))
      .add(dlogits.to(at::kFloat))
      .to(dlogits.scalar_type());
}

}  // namespace

at::Tensor router_probabilities(const at::Tensor& logits) {
  at::NoGradGuard no_grad;
  return at::softmax(logits.to(at::kFloat), 1);
}

Routing route(const at::Tensor& logits,
              int64_t num_chosen,
              bool renormalize,
              const RouterTerm* term,
              const GivenExperts* given) {
  const OpTimer timer("route");
  if (logits.dim() != 2 || num_chosen < 1 || num_chosen > logits.size(1))
    fail<ShapeError>("bad-shape", "route", "expected logits [T, E] with E >= {} >= 1, got {}",
                     num_chosen, shape_text(logits));
  const cpu::RouteShape shape{logits.size(1), num_chosen, renormalize};
  Routing routing;
  at::Tensor values;
  GivenExperts fixed;
  {
    at::NoGradGuard no_grad;
    values = logits.detach().contiguous();
    routing = choose(values, shape);
    if (given) {
      check_given(*given, values, num_chosen);
      fixed.experts = given->experts.contiguous();
      if (given->weights.defined())
        fixed.weights = given->weights.to(values.scalar_type()).contiguous();
      replace(fixed, values, shape, routing);
    }
  }
  if (!wants_gradient({logits})) return routing;
  const at::Tensor experts = routing.experts;
  const RouterTerm added = term ? *term : RouterTerm();
  routing.weights = attach_backward(
      {logits}, {routing.weights},
      [values, experts, shape, added, fixed](const auto& dweights, const auto&) {
        std::vector<at::Tensor> gradients(1);
        if (!dweights[0].defined()) return gradients;
        gradients[0] = choose_backward(values, experts, without_given(dweights[0], fixed), shape);
        if (added.slopes.defined()) gradients[0] = with_term(gradients[0], values, added);
        return gradients;
      })[0];
  return routing;
}

}  // namespace lockstep::ops
