// SPDX-License-Identifier: Apache-2.0
#include "ops/low_rank.h"

#include <utility>

#include "base/check.h"
#include "base/op_timer.h"
#include "ops/kernel_data.h"
#include "ops/low_rank_rows.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"

namespace lockstep::ops {
namespace {

void check_term(const at::Tensor& x, const at::Tensor& weight, const LowRankTerm& term) {
  const LowRank& pair = *term.pair;
  const at::Tensor &a = pair.a.weight, &b = pair.b.weight;
  const bool is_right = x.dim() == 2 && weight.dim() == 2 && a.dim() == 2 && b.dim() == 2 &&
                        a.size(1) == x.size(1) && b.size(1) == a.size(0) && pair.first_row >= 0 &&
                        pair.first_row + b.size(0) <= weight.size(0) &&
                        a.scalar_type() == at::kFloat && b.scalar_type() == at::kFloat;
  if (!is_right)
    fail<ShapeError>("bad-shape", "adapted_linear",
                     "expected x [T, I], a weight [O', I], A [R, I] and B [O, R] float32 with "
                     "{} + O <= O', got {}, {}, {}, {}",
                     pair.first_row, shape_text(x), shape_text(weight), shape_text(a),
                     shape_text(b));
  check_dropout(term.dropout, x, "adapted_linear");
}

LowRankRows rows_of(const LowRankTerm& term, int64_t tokens) {
  LowRankRows part{.rows = term.rows,
                   .a = term.pair->a.weight,
                   .b = term.pair->b.weight,
                   .scale = term.pair->scale,
                   .name = term.pair->name,
                   .first_column = term.pair->first_row,
                   .dropout = term.dropout};
  part.runs.push_back({.a = &term.pair->a,
                       .b = &term.pair->b,
                       .count = term.rows.defined() ? term.rows.numel() : tokens});
  return part;
}

}  // namespace

at::Tensor adapted_linear(const at::Tensor& x,
                          const LinearWeight& weight,
                          std::span<const LowRankTerm> terms) {
  if (terms.empty()) return linear(x, weight);
  const OpTimer timer("adapted_linear");
  std::vector<LowRankRows> parts;
  std::vector<at::Tensor> inputs{x, weight.weight};
  for (const LowRankTerm& term : terms) {
    check_term(x, weight.weight, term);
    parts.push_back(rows_of(term, x.size(0)));
    inputs.push_back(term.pair->a.weight);
    inputs.push_back(term.pair->b.weight);
  }
  check_apart(parts, "adapted_linear");
  at::Tensor y;
  std::vector<at::Tensor> low;
  {
    at::NoGradGuard no_grad;
    y = linear(x.detach(), weight);
    low = add_low_rank(y, x.detach(), parts);
  }
  if (!wants_gradient(inputs)) return y;
  return attach_backward(inputs, {y},
                         [x = x.detach(), weight, low = std::move(low), parts = std::move(parts)](
                             const auto& dy, const auto& needs) {
                           std::vector<at::Tensor> gradients(needs.size());
                           if (!dy[0].defined()) return gradients;
                           if (needs[1]) gradients[1] = backward_product(dy[0].t(), x);
                           const auto dlow = low_gradients(dy[0], parts);
                           if (any_of(needs, 2))
                             put_pairs(pair_gradients(dy[0], x, dlow, low, parts), gradients, 2);
                           if (!needs[0]) return gradients;
                           gradients[0] = backward_product(dy[0], weight);
                           add_input_gradients(dlow, parts, gradients[0]);
                           return gradients;
                         })[0];
}

}  // namespace lockstep::ops
