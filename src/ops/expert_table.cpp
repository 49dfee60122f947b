// SPDX-License-Identifier: Apache-2.0
#include "ops/expert_table.h"

#include <cstddef>
#include <utility>

#include "ops/activation.h"
#include "ops/cpu/activation.h"
#include "ops/cpu/moe.h"
#include "ops/kernel_data.h"
#include "ops/panel_product.h"
#include "tensor/aten.h"
#include "tensor/index_tensor.h"
#include "tensor/parallel.h"

namespace lockstep::ops {
namespace {

/// Each segment's rows times its expert's matrix transposed. Shapes: table [R, I]; bank [E, O, I]
/// -> [R, O].
at::Tensor grouped_product(const at::Tensor& table,
                           const ExpertBank& bank,
                           const std::vector<ExpertSegment>& segments) {
  at::Tensor out = at::empty({table.size(0), bank.weight.size(1)}, table.options());
  // The products of all experts with panels, which run together.
  std::vector<PanelOperands> products;
  for (const ExpertSegment& s : segments) {
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
void run_products(const std::vector<ExpertSegment>& segments,
                  const at::Tensor& weight,
                  Make&& make) {
  constexpr int64_t kElementsAtOnce = 8 << 20;
  const int64_t most = 1 + kElementsAtOnce / (weight.size(1) * weight.size(2));
  std::vector<BackwardProduct> products;
  for (const ExpertSegment& s : segments) {
    products.push_back(make(s));
    if (std::ssize(products) < most && &s != &segments.back()) continue;
    backward_products(products);
    products.clear();
  }
}

/// Each segment's rows times its expert's matrix. Shapes: table [R, O]; bank [E, O, I] -> [R, I].
at::Tensor grouped_backward(const at::Tensor& table,
                            const ExpertBank& bank,
                            const std::vector<ExpertSegment>& segments) {
  at::Tensor out = at::empty({table.size(0), bank.weight.size(2)}, table.options());
  run_products(segments, bank.weight, [&](const ExpertSegment& s) {
    return BackwardProduct{out.narrow(0, s.first, s.count), table.narrow(0, s.first, s.count),
                           bank.experts[static_cast<size_t>(s.expert)]};
  });
  return out;
}

/// dW_e = dy_e^T x_e; zeros for experts without a row. Shapes: dy [R, O]; x [R, I] -> [N, O, I], of
/// the N experts of `range`.
at::Tensor weight_gradient(const at::Tensor& dy,
                           const at::Tensor& x,
                           const at::Tensor& weight,
                           const ExpertRange& range,
                           const std::vector<ExpertSegment>& segments) {
  const at::Tensor gradient =
      at::zeros({range.count, weight.size(1), weight.size(2)}, weight.options());
  run_products(segments, weight, [&](const ExpertSegment& s) {
    return BackwardProduct{gradient.select(0, s.expert - range.first),
                           dy.narrow(0, s.first, s.count).t(), x.narrow(0, s.first, s.count)};
  });
  return gradient;
}

/// The table's gradient after the activation, from that of its product with `down`, without the
/// routing weights: scales it and `activated` by them in place and returns the weights' gradient
/// [R] float32.
at::Tensor apply_weights(const at::Tensor& dactivated,
                         const at::Tensor& activated,
                         const at::Tensor& weights) {
  const at::Tensor dweights = at::empty_like(weights);
  const int64_t width = activated.size(1);
  for_dtype(activated.scalar_type(), "experts", [&](auto tag) {
    using T = decltype(tag);
    parallel_for(0, weights.numel(), expert_row_grain(width), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        dweights.mutable_data_ptr<float>()[row] = cpu::scale_and_dot(
            elements<T>(dactivated) + row * width, elements<T>(activated) + row * width,
            weights.const_data_ptr<float>()[row], width);
    });
  });
  return dweights;
}

/// The activation's backward over the table. Shapes: hidden [R, 2F]; dactivated [R, F] -> [R, 2F].
at::Tensor activation_backward(const at::Tensor& hidden, const at::Tensor& dactivated) {
  const at::Tensor dhidden = at::empty(hidden.sizes(), hidden.options());
  const int64_t width = dactivated.size(1);
  for_dtype(hidden.scalar_type(), "experts", [&](auto tag) {
    using T = decltype(tag);
    parallel_for(0, hidden.size(0), expert_row_grain(width), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        cpu::silu_mul_backward_row(const_elements<T>(hidden) + row * 2 * width,
                                   const_elements<T>(dactivated) + row * width, width,
                                   elements<T>(dhidden) + row * 2 * width);
    });
  });
  return dhidden;
}

}  // namespace

ExpertTable::ExpertTable(std::vector<ExpertSegment> segments,
                         const ExpertRange& range,
                         std::span<const AdaptedExpertRows> adapted)
    : segments_(std::move(segments)), range_(range) {
  for (const AdaptedExpertRows& own : adapted) {
    const LowRankRows part = rows_of(own);
    if (own.term->gate_up) gate_up_parts_.push_back(with_pair(part, *own.term->gate_up));
    if (own.term->down) down_parts_.push_back(with_pair(part, *own.term->down));
  }
  check_apart(gate_up_parts_, "experts");
  check_apart(down_parts_, "experts");
}

/// The runs of an adapter's rows, without A and B.
LowRankRows ExpertTable::rows_of(const AdaptedExpertRows& own) const {
  LowRankRows part;
  std::vector<int64_t> keys(own.keys);
  auto next = own.rows.begin();
  int64_t taken = 0;
  for (const ExpertSegment& s : segments_) {
    const int64_t end = s.first + s.count, first = taken;
    if (own.has_all) taken += s.count;
    for (; next != own.rows.end() && *next < end; ++next) ++taken;
    if (taken > first)
      part.runs.push_back({.matrix = s.expert, .first = first, .count = taken - first});
    if (!keys.empty())
      for (auto row = static_cast<size_t>(s.first); row < static_cast<size_t>(end); ++row)
        keys[row] =
            static_cast<int64_t>(static_cast<uint64_t>(keys[row]) +
                                 0xD1342543DE82EF95ULL * static_cast<uint64_t>(s.expert + 1));
  }
  if (!own.has_all) part.rows = index_tensor(own.rows);
  if (own.term->dropout.rate != 0) part.dropout = {own.term->dropout.rate, index_tensor(keys)};
  return part;
}

LowRankRows ExpertTable::with_pair(LowRankRows part, const ExpertLowRank& pair) const {
  part.a = pair.a.weight.narrow(0, range_.first, range_.count);
  part.b = pair.b.weight.narrow(0, range_.first, range_.count);
  part.scale = pair.scale;
  part.name = pair.name;
  for (auto& run : part.runs) {
    run.a = &pair.a.experts[static_cast<size_t>(run.matrix)];
    run.b = &pair.b.experts[static_cast<size_t>(run.matrix)];
    run.matrix -= range_.first;
  }
  return part;
}

at::Tensor ExpertTable::forward(const at::Tensor& table, const ExpertBanks& banks) {
  hidden_ = grouped_product(table, banks.gate_up, segments_);
  gate_up_low_ = add_low_rank(hidden_, table, gate_up_parts_);
  const at::Tensor activated = silu_mul(hidden_);
  at::Tensor summands = grouped_product(activated, banks.down, segments_);
  add_low_rank(summands, activated, down_parts_);
  return summands;
}

ExpertTable::Gradients ExpertTable::backward(const ExpertBanks& banks,
                                             const at::Tensor& dy,
                                             const at::Tensor& weights,
                                             const std::function<at::Tensor()>& table,
                                             const Needs& needs) const {
  Gradients gradients;
  at::Tensor dhidden;
  {
    const at::Tensor activated = silu_mul(hidden_);
    const at::Tensor dactivated = grouped_backward(dy, banks.down, segments_);
    const auto dlow = low_gradients(dy, down_parts_);
    add_input_gradients(dlow, down_parts_, dactivated);
    gradients.weights = apply_weights(dactivated, activated, weights);
    if (needs.down)
      gradients.down = weight_gradient(dy, activated, banks.down.weight, range_, segments_);
    if (needs.down_pairs)
      gradients.down_pairs = pair_gradients(dy, activated, dlow, /*low=*/{}, down_parts_);
    if (!needs.input && !needs.gate_up && !needs.gate_up_pairs) return gradients;
    dhidden = activation_backward(hidden_, dactivated);
  }
  const auto dlow = low_gradients(dhidden, gate_up_parts_);
  if (needs.gate_up_pairs)
    gradients.gate_up_pairs = pair_gradients(dhidden, table(), dlow, gate_up_low_, gate_up_parts_);
  if (needs.gate_up)
    gradients.gate_up = weight_gradient(dhidden, table(), banks.gate_up.weight, range_, segments_);
  if (!needs.input) return gradients;
  gradients.table = grouped_backward(dhidden, banks.gate_up, segments_);
  add_input_gradients(dlow, gate_up_parts_, gradients.table);
  return gradients;
}

}  // namespace lockstep::ops
