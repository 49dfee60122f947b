// SPDX-License-Identifier: Apache-2.0
//
// A mixture of experts: what the chosen ones make of each token (route.cpp chooses them).
//
// One permutation sorts the (token, choice) pairs by expert: each expert's pairs are a segment of a
// table of rows, in order of tokens.
//
// Shapes: T tokens, D model dim, E experts, K chosen experts, F expert width, R rows of the table.
#include "ops/cpu/moe.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/op_timer.h"
#include "ops/activation.h"
#include "ops/cpu/activation.h"
#include "ops/kernel_data.h"
#include "ops/low_rank_rows.h"
#include "ops/moe.h"
#include "ops/panel_product.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tensor/index_tensor.h"
#include "tensor/parallel.h"

namespace lockstep::ops {
namespace {

/// One expert's rows of the table.
struct Segment {
  int64_t expert;
  int64_t first;
  int64_t count;
};

/// Where each pair of a token and a chosen expert lies in the table.
struct Dispatch {
  /// The segments of those experts that have tokens, in the order of their ids.
  std::vector<Segment> segments;
  std::vector<int64_t> row_of_pair;
  std::vector<int64_t> token_of_row;
  int64_t num_chosen;
  int64_t num_rows() const { return static_cast<int64_t>(token_of_row.size()); }
};

Dispatch make_dispatch(const at::Tensor& experts, int64_t num_experts) {
  const std::span<const int64_t> ids(experts.const_data_ptr<int64_t>(),
                                     static_cast<size_t>(experts.numel()));
  std::vector<int64_t> counts(static_cast<size_t>(num_experts));
  for (const int64_t id : ids) {
    if (id < 0 || id >= num_experts)
      fail<ShapeError>("bad-expert", "experts", "expected ids in [0, {}), got {}", num_experts, id);
    ++counts[static_cast<size_t>(id)];
  }
  Dispatch dispatch;
  dispatch.num_chosen = experts.size(1);
  std::vector<int64_t> next(counts.size());
  int64_t rows = 0;
  for (int64_t expert = 0; expert < num_experts; ++expert) {
    const int64_t count = counts[static_cast<size_t>(expert)];
    next[static_cast<size_t>(expert)] = rows;
    if (count == 0) continue;
    dispatch.segments.push_back({expert, rows, count});
    rows += count;
  }
  dispatch.row_of_pair.resize(ids.size());
  dispatch.token_of_row.resize(static_cast<size_t>(rows));
  for (size_t pair = 0; pair < ids.size(); ++pair) {
    const int64_t row = next[static_cast<size_t>(ids[pair])]++;
    dispatch.row_of_pair[pair] = row;
    dispatch.token_of_row[static_cast<size_t>(row)] = static_cast<int64_t>(pair) / experts.size(1);
  }
  return dispatch;
}

/// Items that a thread takes at once, each of `width` elements.
int64_t grain(int64_t width) {
  return std::max<int64_t>(1, 16 * 1024 / std::max<int64_t>(1, width));
}

/// The table of each row's token. Shapes: x [T, D] -> [R, D].
at::Tensor gather_rows(const at::Tensor& x, const Dispatch& dispatch) {
  const at::Tensor table = at::empty({dispatch.num_rows(), x.size(1)}, x.options());
  const auto bytes = static_cast<size_t>(x.size(1)) * x.element_size();
  const auto* const from = static_cast<const std::byte*>(x.const_data_ptr());
  auto* const to = static_cast<std::byte*>(table.mutable_data_ptr());
  parallel_for(0, dispatch.num_rows(), grain(x.size(1)), [&](int64_t begin, int64_t end) {
    for (auto row = static_cast<size_t>(begin); row < static_cast<size_t>(end); ++row) {
      const auto token = static_cast<size_t>(dispatch.token_of_row[row]);
      std::memcpy(to + row * bytes, from + token * bytes, bytes);
    }
  });
  return table;
}

/// Each token's sum over its rows of the table. `weights` [T, K], or undefined: all 1.
/// Shapes: table [R, D] -> [T, D].
at::Tensor combine(const at::Tensor& table, const at::Tensor& weights, const Dispatch& dispatch) {
  const int64_t chosen = dispatch.num_chosen, width = table.size(1);
  const int64_t tokens = static_cast<int64_t>(dispatch.row_of_pair.size()) / chosen;
  const at::Tensor out = at::empty({tokens, width}, table.options());
  for_dtype(table.scalar_type(), "experts", [&](auto tag) {
    using T = decltype(tag);
    const T* const w = const_elements<T>(weights);
    parallel_for(0, tokens, grain(width * chosen), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        cpu::combine_rows({.table = const_elements<T>(table),
                           .rows = dispatch.row_of_pair.data() + t * chosen,
                           .weights = w ? w + t * chosen : nullptr,
                           .num_chosen = chosen,
                           .width = width},
                          elements<T>(out) + t * width);
    });
  });
  return out;
}

/// Each segment's rows times its expert's matrix transposed. Shapes: table [R, I]; bank [E, O, I]
/// -> [R, O].
at::Tensor grouped_product(const at::Tensor& table,
                           const ExpertBank& bank,
                           const Dispatch& dispatch) {
  at::Tensor out = at::empty({table.size(0), bank.weight.size(1)}, table.options());
  // The products of all experts with panels, which run together.
  std::vector<PanelOperands> products;
  for (const Segment& s : dispatch.segments) {
    const LinearWeight& weight = bank.experts[static_cast<size_t>(s.expert)];
    const at::Tensor x = table.narrow(0, s.first, s.count), y = out.narrow(0, s.first, s.count);
    if (weight.form == PackedForm::kPanels)
      products.push_back({x, weight.packed, y});
    else
      y.copy_(linear(x, weight));
  }
  panel_products(products);
  return out;
}

/// Runs make(segment) for all segments, the products of a few experts of `weight` [E, O, I] at
/// once: enough for all threads, without the panels of a whole layer.
template <class Make>
void run_products(const Dispatch& dispatch, const at::Tensor& weight, Make&& make) {
  constexpr int64_t kElementsAtOnce = 8 << 20;
  const int64_t most = 1 + kElementsAtOnce / (weight.size(1) * weight.size(2));
  std::vector<BackwardProduct> products;
  for (const Segment& s : dispatch.segments) {
    products.push_back(make(s));
    if (std::ssize(products) < most && &s != &dispatch.segments.back()) continue;
    backward_products(products);
    products.clear();
  }
}

/// Each segment's rows times its expert's matrix. Shapes: table [R, O]; bank [E, O, I] -> [R, I].
at::Tensor grouped_backward(const at::Tensor& table,
                            const ExpertBank& bank,
                            const Dispatch& dispatch) {
  at::Tensor out = at::empty({table.size(0), bank.weight.size(2)}, table.options());
  run_products(dispatch, bank.weight, [&](const Segment& s) {
    return BackwardProduct{out.narrow(0, s.first, s.count), table.narrow(0, s.first, s.count),
                           bank.experts[static_cast<size_t>(s.expert)]};
  });
  return out;
}

/// dW_e = dy_e^T x_e; zeros for experts without a token. Shapes: dy [R, O]; x [R, I] -> [E, O, I].
at::Tensor weight_gradient(const at::Tensor& dy,
                           const at::Tensor& x,
                           const at::Tensor& weight,
                           const Dispatch& dispatch) {
  const at::Tensor gradient = at::zeros(weight.sizes(), weight.options());
  run_products(dispatch, weight, [&](const Segment& s) {
    return BackwardProduct{gradient.select(0, s.expert), dy.narrow(0, s.first, s.count).t(),
                           x.narrow(0, s.first, s.count)};
  });
  return gradient;
}

/// The rows of a term's tokens, without A and B. `tokens` counts all of them.
LowRankRows rows_of(const ExpertTerm& term, const Dispatch& dispatch, int64_t tokens) {
  LowRankRows part;
  std::vector<bool> is_own(static_cast<size_t>(tokens), !term.tokens.defined());
  std::vector<int64_t> rows;
  if (term.tokens.defined())
    for (int64_t i = 0; i < term.tokens.numel(); ++i)
      is_own[static_cast<size_t>(term.tokens.const_data_ptr<int64_t>()[i])] = true;
  for (const Segment& s : dispatch.segments) {
    const int64_t first = std::ssize(rows);
    for (int64_t row = s.first; row < s.first + s.count; ++row)
      if (is_own[static_cast<size_t>(dispatch.token_of_row[static_cast<size_t>(row)])])
        rows.push_back(row);
    if (std::ssize(rows) > first)
      part.runs.push_back({.matrix = s.expert, .first = first, .count = std::ssize(rows) - first});
  }
  if (term.tokens.defined()) part.rows = index_tensor(rows);
  if (term.dropout.rate == 0) return part;
  std::vector<int64_t> keys(static_cast<size_t>(dispatch.num_rows()));
  const int64_t* const of_tokens = term.dropout.keys.const_data_ptr<int64_t>();
  for (const Segment& s : dispatch.segments)
    for (auto row = static_cast<size_t>(s.first); row < static_cast<size_t>(s.first + s.count);
         ++row)
      keys[row] =
          static_cast<int64_t>(static_cast<uint64_t>(of_tokens[dispatch.token_of_row[row]]) +
                               0xD1342543DE82EF95ULL * static_cast<uint64_t>(s.expert + 1));
  part.dropout = {term.dropout.rate, index_tensor(keys)};
  return part;
}

LowRankRows with_pair(LowRankRows part, const ExpertLowRank& pair) {
  part.a = pair.a.weight;
  part.b = pair.b.weight;
  part.scale = pair.scale;
  part.name = pair.name;
  for (auto& run : part.runs) {
    run.a = &pair.a.experts[static_cast<size_t>(run.matrix)];
    run.b = &pair.b.experts[static_cast<size_t>(run.matrix)];
  }
  return part;
}

/// What the backward needs; `hidden` is the table after the first product.
struct SavedForward {
  at::Tensor x, weights;
  ExpertBank gate_up, down;
  Dispatch dispatch;
  /// [R, 2F]
  at::Tensor hidden;
  /// The adapters' parts in both products, and what add_low_rank() gave for those in the first.
  std::vector<LowRankRows> gate_up_parts, down_parts;
  std::vector<at::Tensor> gate_up_low;
};

/// The place of the first A among the inputs of the backward.
constexpr size_t kFirstPair = 4;

void set_parts(std::span<const ExpertTerm> terms, int64_t tokens, SavedForward& saved) {
  for (const ExpertTerm& term : terms) {
    const LowRankRows part = rows_of(term, saved.dispatch, tokens);
    if (term.gate_up) saved.gate_up_parts.push_back(with_pair(part, *term.gate_up));
    if (term.down) saved.down_parts.push_back(with_pair(part, *term.down));
  }
  check_apart(saved.gate_up_parts, "experts");
  check_apart(saved.down_parts, "experts");
}

/// The table's gradient after the activation, from that of its product with `down`, without the
/// routing weights: scales it and `activated` by them in place and returns the weights' gradient
/// [T, K].
at::Tensor apply_routing_weights(const at::Tensor& dactivated,
                                 const at::Tensor& activated,
                                 const SavedForward& saved) {
  const at::Tensor dweights = at::empty(saved.weights.sizes(), saved.weights.options());
  const int64_t width = activated.size(1);
  const auto& rows = saved.dispatch.row_of_pair;
  const at::Tensor w = saved.weights.to(at::kFloat);
  const at::Tensor dw = at::empty_like(w);
  for_dtype(activated.scalar_type(), "experts", [&](auto tag) {
    using T = decltype(tag);
    parallel_for(0, std::ssize(rows), grain(width), [&](int64_t begin, int64_t end) {
      for (int64_t pair = begin; pair < end; ++pair) {
        const int64_t offset = rows[static_cast<size_t>(pair)] * width;
        dw.mutable_data_ptr<float>()[pair] =
            cpu::scale_and_dot(elements<T>(dactivated) + offset, elements<T>(activated) + offset,
                               w.const_data_ptr<float>()[pair], width);
      }
    });
  });
  dweights.copy_(dw);
  return dweights;
}

/// The activation's backward over the table. Shapes: hidden [R, 2F]; dactivated [R, F] -> [R, 2F].
at::Tensor activation_backward(const at::Tensor& hidden, const at::Tensor& dactivated) {
  const at::Tensor dhidden = at::empty(hidden.sizes(), hidden.options());
  const int64_t width = dactivated.size(1);
  for_dtype(hidden.scalar_type(), "experts", [&](auto tag) {
    using T = decltype(tag);
    parallel_for(0, hidden.size(0), grain(width), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        cpu::silu_mul_backward_row(const_elements<T>(hidden) + row * 2 * width,
                                   const_elements<T>(dactivated) + row * width, width,
                                   elements<T>(dhidden) + row * 2 * width);
    });
  });
  return dhidden;
}

/// Since a token's output is sum_k w_k down(a_k), the gradient of w_k is <down^T dy, a_k>: down's
/// output is not kept. Gradients of x, weights, gate_up, down, and the A and B of the parts.
std::vector<at::Tensor> backward(const SavedForward& saved,
                                 const at::Tensor& dout,
                                 const std::vector<bool>& needs) {
  const Dispatch& dispatch = saved.dispatch;
  std::vector<at::Tensor> gradients(needs.size());
  const size_t down_pairs = kFirstPair + 2 * saved.gate_up_parts.size();
  at::Tensor dhidden;
  {
    const at::Tensor dy = gather_rows(dout.contiguous(), dispatch);
    const at::Tensor activated = silu_mul(saved.hidden);
    const at::Tensor dactivated = grouped_backward(dy, saved.down, dispatch);
    const auto dlow = low_gradients(dy, saved.down_parts);
    add_input_gradients(dlow, saved.down_parts, dactivated);
    gradients[1] = apply_routing_weights(dactivated, activated, saved);
    if (needs[3]) gradients[3] = weight_gradient(dy, activated, saved.down.weight, dispatch);
    if (any_of(needs, down_pairs))
      put_pairs(pair_gradients(dy, activated, dlow, /*low=*/{}, saved.down_parts), gradients,
                down_pairs);
    if (needs[0] || needs[2] || any_of(needs, kFirstPair))
      dhidden = activation_backward(saved.hidden, dactivated);
  }
  const auto dlow =
      dhidden.defined() ? low_gradients(dhidden, saved.gate_up_parts) : std::vector<at::Tensor>();
  if (any_of(needs, kFirstPair))
    put_pairs(pair_gradients(dhidden, gather_rows(saved.x, dispatch), dlow, saved.gate_up_low,
                             saved.gate_up_parts),
              gradients, kFirstPair);
  if (needs[2])
    gradients[2] =
        weight_gradient(dhidden, gather_rows(saved.x, dispatch), saved.gate_up.weight, dispatch);
  if (!needs[0]) return gradients;
  const at::Tensor dtable = grouped_backward(dhidden, saved.gate_up, dispatch);
  add_input_gradients(dlow, saved.gate_up_parts, dtable);
  gradients[0] = combine(dtable, at::Tensor(), dispatch);
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

ExpertBank::ExpertBank(at::Tensor canonical) : weight(std::move(canonical)) {
  for (int64_t expert = 0; expert < weight.size(0); ++expert)
    experts.emplace_back(weight.detach().select(0, expert));
}

ExpertBank ExpertBank::packed(at::Tensor canonical) {
  ExpertBank bank(std::move(canonical));
  bank.pack();
  return bank;
}

void ExpertBank::pack() {
  for (LinearWeight& expert : experts) expert.pack();
}

int64_t ExpertBank::packed_bytes() const {
  int64_t bytes = 0;
  for (const LinearWeight& expert : experts) bytes += expert.packed_bytes();
  return bytes;
}

void ExpertBank::drop_packed() {
  for (LinearWeight& expert : experts) expert.drop_packed();
}

bool ExpertBank::can_release() const {
  return std::all_of(experts.begin(), experts.end(),
                     [](const LinearWeight& expert) { return expert.can_release(); });
}

void ExpertBank::release() {
  for (LinearWeight& expert : experts) expert.release();
  weight = without_values(weight);
}

void ExpertBank::take(const at::Tensor& values) {
  for (size_t i = 0; i < experts.size(); ++i)
    experts[i].take(values.select(0, static_cast<int64_t>(i)));
}

at::Tensor ExpertBank::values() const {
  if (has_values(weight)) return weight;
  std::vector<at::Tensor> matrices;
  for (const LinearWeight& expert : experts) matrices.push_back(expert.values());
  return at::stack(matrices);
}

at::Tensor experts(const at::Tensor& x,
                   const Routing& routing,
                   const ExpertBank& gate_up_bank,
                   const ExpertBank& down_bank,
                   std::span<const ExpertTerm> terms) {
  const OpTimer timer("experts");
  const at::Tensor &gate_up = gate_up_bank.weight, &down = down_bank.weight;
  check_arguments(x, routing, gate_up, down);
  check_terms(terms, x, gate_up, down);
  SavedForward saved;
  std::vector<at::Tensor> inputs{x, routing.weights, gate_up, down};
  at::Tensor out;
  {
    at::NoGradGuard no_grad;
    saved.x = x.detach().contiguous();
    saved.weights = routing.weights.detach().contiguous();
    saved.dispatch = make_dispatch(routing.experts.contiguous(), gate_up.size(0));
    set_parts(terms, x.size(0), saved);
    const at::Tensor table = gather_rows(saved.x, saved.dispatch);
    saved.hidden = grouped_product(table, gate_up_bank, saved.dispatch);
    saved.gate_up_low = add_low_rank(saved.hidden, table, saved.gate_up_parts);
    const at::Tensor activated = silu_mul(saved.hidden);
    const at::Tensor summands = grouped_product(activated, down_bank, saved.dispatch);
    add_low_rank(summands, activated, saved.down_parts);
    out = combine(summands, saved.weights, saved.dispatch);
  }
  for (const auto* parts : {&saved.gate_up_parts, &saved.down_parts})
    for (const LowRankRows& part : *parts) {
      inputs.push_back(part.a);
      inputs.push_back(part.b);
    }
  if (!wants_gradient(inputs)) return out;
  saved.gate_up = gate_up_bank;
  saved.down = down_bank;
  return attach_backward(inputs, {out},
                         [saved = std::move(saved)](const auto& dout, const auto& needs) {
                           if (!dout[0].defined()) return std::vector<at::Tensor>(needs.size());
                           return backward(saved, dout[0], needs);
                         })[0];
}

}  // namespace lockstep::ops
