// SPDX-License-Identifier: Apache-2.0
//
// A mixture of experts: what the chosen ones make of each token (route.cpp chooses them).
//
// Shapes: T tokens, D model dim, E experts, K chosen experts, F expert width.
#include "ops/moe.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/op_timer.h"
#include "ops/expert_dispatch.h"
#include "ops/expert_ranks.h"
#include "ops/expert_table.h"
#include "ops/kernel_data.h"
#include "ops/low_rank_rows.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"

namespace lockstep::ops {
namespace {

/// The rows of a term's tokens. `tokens` counts all of them.
AdaptedExpertRows rows_of(const ExpertTerm& term, const ExpertDispatch& dispatch, int64_t tokens) {
  AdaptedExpertRows own{.term = &term, .rows = {}, .has_all = !term.tokens.defined(), .keys = {}};
  if (term.dropout.rate != 0)
    for (const int64_t token : dispatch.token_of_row)
      own.keys.push_back(term.dropout.keys.const_data_ptr<int64_t>()[token]);
  if (own.has_all) return own;
  std::vector<bool> is_own(static_cast<size_t>(tokens));
  for (int64_t i = 0; i < term.tokens.numel(); ++i)
    is_own[static_cast<size_t>(term.tokens.const_data_ptr<int64_t>()[i])] = true;
  for (int64_t row = 0; row < dispatch.num_rows(); ++row)
    if (is_own[static_cast<size_t>(dispatch.token_of_row[static_cast<size_t>(row)])])
      own.rows.push_back(row);
  return own;
}

/// What the backward needs.
struct SavedForward {
  at::Tensor x, weights;
  ExpertDispatch dispatch;
  ExpertTable table;
};

/// The place of the first A among the inputs of the backward.
constexpr size_t kFirstPair = 4;

/// Gradients of x, weights, gate_up, down, and the A and B of the parts.
std::vector<at::Tensor> backward(const SavedForward& saved,
                                 const ExpertBanks& banks,
                                 const at::Tensor& dout,
                                 const std::vector<bool>& needs) {
  const ExpertDispatch& dispatch = saved.dispatch;
  const size_t down_pairs = kFirstPair + 2 * saved.table.gate_up_parts().size();
  const ExpertTable::Gradients found = saved.table.backward(
      banks, dispatch.gather(dout.contiguous()), dispatch.weights_of_rows(saved.weights),
      [&] { return dispatch.gather(saved.x); },
      {.input = needs[0],
       .gate_up = needs[2],
       .down = needs[3],
       .gate_up_pairs = any_of(needs, kFirstPair),
       .down_pairs = any_of(needs, down_pairs)});
  std::vector<at::Tensor> gradients(needs.size());
  if (needs[0]) gradients[0] = dispatch.combine(found.table, at::Tensor());
  gradients[1] = dispatch.by_pair(found.weights).to(saved.weights.scalar_type());
  gradients[2] = found.gate_up;
  gradients[3] = found.down;
  put_pairs(found.gate_up_pairs, gradients, kFirstPair);
  put_pairs(found.down_pairs, gradients, down_pairs);
  return gradients;
}

void check_pair(const ExpertLowRank& pair, const at::Tensor& weight) {
  const at::Tensor &a = pair.a.weight, &b = pair.b.weight;
  const bool is_right = a.dim() == 3 && b.dim() == 3 && a.size(0) == weight.size(0) &&
                        b.size(0) == weight.size(0) && a.size(2) == weight.size(2) &&
                        b.size(1) == weight.size(1) && a.size(1) == b.size(2) &&
                        a.scalar_type() == at::kFloat && b.scalar_type() == at::kFloat;
  if (!is_right)
    fail<ShapeError>("bad-shape", "experts",
                     "expected A [E, R, I] and B [E, O, R] float32 beside {}, got {} and {}",
                     shape_text(weight), shape_text(a), shape_text(b));
}

void check_terms(std::span<const ExpertTerm> terms,
                 const at::Tensor& x,
                 const at::Tensor& gate_up,
                 const at::Tensor& down) {
  for (const ExpertTerm& term : terms) {
    if (term.gate_up) check_pair(*term.gate_up, gate_up);
    if (term.down) check_pair(*term.down, down);
    check_dropout(term.dropout, x, "experts");
  }
}

void check_arguments(const at::Tensor& x,
                     const Routing& routing,
                     const at::Tensor& gate_up,
                     const at::Tensor& down) {
  const bool is_right =
      x.dim() == 2 && gate_up.dim() == 3 && down.dim() == 3 && routing.experts.dim() == 2 &&
      routing.weights.sizes() == routing.experts.sizes() && routing.experts.size(0) == x.size(0) &&
      gate_up.size(2) == x.size(1) && down.size(1) == x.size(1) &&
      gate_up.size(1) == 2 * down.size(2) && gate_up.size(0) == down.size(0);
  if (!is_right)
    fail<ShapeError>("bad-shape", "experts",
                     "expected x [T, D], routing [T, K], gate_up [E, 2F, D], down [E, D, F], got "
                     "{}, {} and {}, {}, {}",
                     shape_text(x), shape_text(routing.weights), shape_text(routing.experts),
                     shape_text(gate_up), shape_text(down));
  const auto dtype = x.scalar_type();
  if (gate_up.scalar_type() != dtype || down.scalar_type() != dtype ||
      routing.weights.scalar_type() != dtype || routing.experts.scalar_type() != at::kLong)
    fail<ShapeError>("bad-dtype", "experts",
                     "expected weights in x's {} and int64 ids, got {}, {}, {} and {}",
                     at::toString(dtype), at::toString(routing.weights.scalar_type()),
                     at::toString(gate_up.scalar_type()), at::toString(down.scalar_type()),
                     at::toString(routing.experts.scalar_type()));
}

}  // namespace

ExpertBank::ExpertBank(at::Tensor canonical)
    : weight(std::move(canonical)), num_kept(weight.size(0)) {
  for (int64_t expert = 0; expert < weight.size(0); ++expert)
    experts.emplace_back(weight.detach().select(0, expert));
}

ExpertBank ExpertBank::packed(at::Tensor canonical) {
  ExpertBank bank(std::move(canonical));
  bank.pack();
  return bank;
}

void ExpertBank::pack() {
  for (int64_t expert = first_kept; expert < first_kept + num_kept; ++expert)
    experts[static_cast<size_t>(expert)].pack();
}

void ExpertBank::keep(int64_t first, int64_t count) {
  for (int64_t expert = first_kept; expert < first_kept + num_kept; ++expert)
    if (expert < first || expert >= first + count)
      experts[static_cast<size_t>(expert)].drop_packed();
  first_kept = first;
  num_kept = count;
}

int64_t ExpertBank::packed_bytes() const {
  int64_t bytes = 0;
  for (const LinearWeight& expert : kept()) bytes += expert.packed_bytes();
  return bytes;
}

void ExpertBank::drop_packed() {
  for (LinearWeight& expert : experts) expert.drop_packed();
}

bool ExpertBank::can_release() const {
  const std::span<const LinearWeight> own = kept();
  return std::all_of(own.begin(), own.end(),
                     [](const LinearWeight& expert) { return expert.can_release(); });
}

void ExpertBank::release() {
  for (LinearWeight& expert : experts) expert.weight = without_values(expert.weight);
  weight = without_values(weight);
}

void ExpertBank::take(const at::Tensor& values) {
  for (size_t i = 0; i < experts.size(); ++i)
    experts[i].take(values.select(0, static_cast<int64_t>(i)));
}

at::Tensor ExpertBank::values() const {
  if (has_values(weight)) return weight;
  LOCKSTEP_CHECK(num_kept == std::ssize(experts), "{} of {} experts are kept", num_kept,
                 experts.size());
  std::vector<at::Tensor> matrices;
  for (const LinearWeight& expert : experts) matrices.push_back(expert.values());
  return at::stack(matrices);
}

at::Tensor experts(const at::Tensor& x,
                   const Routing& routing,
                   const ExpertBank& gate_up,
                   const ExpertBank& down,
                   std::span<const ExpertTerm> terms,
                   ExpertRanks* ranks) {
  const OpTimer timer("experts");
  check_arguments(x, routing, gate_up.weight, down.weight);
  check_terms(terms, x, gate_up.weight, down.weight);
  if (ranks) return experts_over_ranks(x, routing, gate_up, down, terms, *ranks);
  std::vector<at::Tensor> inputs{x, routing.weights, gate_up.weight, down.weight};
  at::Tensor out;
  std::optional<SavedForward> saved;
  {
    at::NoGradGuard no_grad;
    const int64_t num_experts = gate_up.weight.size(0);
    ExpertDispatch dispatch(routing.experts.contiguous(), num_experts);
    std::vector<AdaptedExpertRows> adapted;
    for (const ExpertTerm& term : terms) adapted.push_back(rows_of(term, dispatch, x.size(0)));
    ExpertTable table(dispatch.segments, {0, num_experts}, adapted);
    saved.emplace(SavedForward{x.detach().contiguous(), routing.weights.detach().contiguous(),
                               std::move(dispatch), std::move(table)});
    const at::Tensor summands =
        saved->table.forward(saved->dispatch.gather(saved->x), {gate_up, down});
    out = saved->dispatch.combine(summands, saved->weights);
  }
  for (const auto beside : {&ExpertTerm::gate_up, &ExpertTerm::down})
    for (const ExpertTerm& term : terms)
      if (const ExpertLowRank* pair = term.*beside) {
        inputs.push_back(pair->a.weight);
        inputs.push_back(pair->b.weight);
      }
  if (!wants_gradient(inputs)) return out;
  return attach_backward(
      inputs, {out},
      [saved = std::move(*saved), gate_up, down](const auto& dout, const auto& needs) {
        if (!dout[0].defined()) return std::vector<at::Tensor>(needs.size());
        return backward(saved, {gate_up, down}, dout[0], needs);
      })[0];
}

}  // namespace lockstep::ops
