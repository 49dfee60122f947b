// SPDX-License-Identifier: Apache-2.0
#include "train/rank_exchange.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "parallel/gather.h"
#include "parallel/ordered_sum.h"
#include "tensor/aten.h"
#include "train/slot_tree.h"

namespace lockstep::train {
namespace {

template <class T>
void append(const at::Tensor& values, std::vector<T>& list) {
  const at::Tensor dense = values.contiguous();
  const T* data = dense.const_data_ptr<T>();
  list.insert(list.end(), data, data + dense.numel());
}

/// Takes the first elements off a list.
template <class T>
std::span<const T> take(std::span<const T>& list, int64_t count) {
  LOCKSTEP_CHECK(count <= std::ssize(list), "{} values are gathered, {} are needed", list.size(),
                 count);
  const auto first = list.first(static_cast<size_t>(count));
  list = list.subspan(static_cast<size_t>(count));
  return first;
}

template <class T>
at::Tensor take_tensor(std::span<const T>& list, at::IntArrayRef sizes) {
  const at::Tensor made =
      at::empty(sizes, at::TensorOptions().dtype(c10::CppTypeToScalarType<T>()));
  const auto values = take(list, made.numel());
  std::copy(values.begin(), values.end(), made.template mutable_data_ptr<T>());
  return made;
}

}  // namespace

std::vector<SampleScores> gather_scores(parallel::Group& ranks,
                                        std::span<const Sample> samples,
                                        std::vector<SampleScores> own,
                                        bool with_entropy,
                                        const model::ExpertChoices& shape) {
  if (ranks.size() == 1) return own;
  std::vector<float> numbers, weights;
  std::vector<int32_t> experts;
  for (const SampleScores& scores : own) {
    numbers.insert(numbers.end(), scores.logprobs.begin(), scores.logprobs.end());
    numbers.insert(numbers.end(), scores.entropy.begin(), scores.entropy.end());
    if (shape.defined()) append(scores.routed.experts, experts);
    if (shape.weights.defined()) append(scores.routed.weights, weights);
  }
  numbers = parallel::gather_list(ranks, std::move(numbers), {"scores"});
  if (shape.defined()) experts = parallel::gather_list(ranks, std::move(experts), {"experts"});
  if (shape.weights.defined())
    weights = parallel::gather_list(ranks, std::move(weights), {"weights of experts"});
  std::span<const float> next_number(numbers), next_weight(weights);
  std::span<const int32_t> next_expert(experts);
  std::vector<SampleScores> all;
  for (const Sample& sample : samples) {
    SampleScores& scores = all.emplace_back();
    const auto logprobs = take(next_number, sample.num_scored());
    scores.logprobs = {logprobs.begin(), logprobs.end()};
    if (with_entropy) {
      const auto entropy = take(next_number, sample.num_scored());
      scores.entropy = {entropy.begin(), entropy.end()};
    }
    if (!shape.defined()) continue;
    const std::vector<int64_t> sizes{sample.needed_tokens(), shape.experts.size(1),
                                     shape.experts.size(2)};
    scores.routed.experts = take_tensor(next_expert, sizes);
    if (shape.weights.defined()) scores.routed.weights = take_tensor(next_weight, sizes);
  }
  LOCKSTEP_CHECK(next_number.empty() && next_expert.empty() && next_weight.empty(),
                 "{} scores are left over", next_number.size());
  return all;
}

at::Tensor empty_gradient(const Shards& shards, const model::Parameter& parameter) {
  const parallel::ElementRange range = shards.range(parameter);
  const auto options = at::TensorOptions().dtype(at::kFloat);
  return range.count() == parameter.value.numel() ? at::empty(parameter.value.sizes(), options)
                                                  : at::empty({range.count()}, options);
}

namespace {

/// sum_over_ranks() of parameters that the same ranks hold.
void sum_over_holders(const Shards& shards,
                      const std::vector<model::Parameter*>& parameters,
                      const std::vector<size_t>& indices,
                      std::vector<at::Tensor>& gradients) {
  if (indices.empty()) return;
  parallel::Group& ranks = shards.holders(*parameters[indices.front()]);
  if (ranks.size() == 1) return;
  std::vector<uint8_t> own, all(indices.size() * static_cast<size_t>(ranks.size()));
  for (const size_t i : indices) own.push_back(gradients[i].defined());
  ranks.all_gather(std::as_bytes(std::span(own)), std::as_writable_bytes(std::span(all)),
                   {"which gradients there are"});
  std::vector<parallel::Summand> summands;
  std::vector<size_t> summed;
  for (size_t k = 0; k < indices.size(); ++k) {
    const model::Parameter& parameter = *parameters[indices[k]];
    parallel::Summand summand{.values = {}, .is_there = {}, .period = Shards::period(parameter)};
    for (size_t at = k; at < all.size(); at += indices.size()) summand.is_there.push_back(all[at]);
    if (std::count(summand.is_there.begin(), summand.is_there.end(), uint8_t{0}) == ranks.size())
      continue;
    at::Tensor& gradient = gradients[indices[k]];
    if (!gradient.defined())
      gradient = at::empty({shards.held(parameter).count()}, at::TensorOptions().dtype(at::kFloat));
    summand.values = {gradient.mutable_data_ptr<float>(), static_cast<size_t>(gradient.numel())};
    summands.push_back(std::move(summand));
    summed.push_back(indices[k]);
  }
  const parallel::Call call{"gradients"};
  if (shards.sharding() == Sharding::kNone) return parallel::ordered_sum(ranks, summands, call);
  parallel::sum_own_range(ranks, summands, call);
  for (const size_t i : summed) {
    const at::Tensor own_part = empty_gradient(shards, *parameters[i]);
    const int64_t first = shards.range(*parameters[i]).first - shards.held(*parameters[i]).first;
    own_part.view({-1}).copy_(gradients[i].view({-1}).narrow(0, first, own_part.numel()));
    gradients[i] = own_part;
  }
}

}  // namespace

void sum_over_ranks(const Shards& shards,
                    const std::vector<model::Parameter*>& parameters,
                    std::span<const size_t> indices,
                    std::vector<at::Tensor>& gradients) {
  std::vector<size_t> of_all, parted;
  for (const size_t i : indices) (shards.is_parted(*parameters[i]) ? parted : of_all).push_back(i);
  sum_over_holders(shards, parameters, of_all, gradients);
  sum_over_holders(shards, parameters, parted, gradients);
}

RowSums sum_over_ranks(parallel::Group& ranks, RowSums own) {
  if (ranks.size() == 1) return own;
  const bool is_there = own.rows.defined();
  struct Size {
    int64_t rows, width;
  };
  const auto sizes = parallel::gather_list(
      ranks, std::vector<Size>{{std::ssize(own.ids), is_there ? own.rows.size(1) : 0}},
      {"sizes of the embedding's gradient"});
  std::vector<float> values;
  if (is_there) append(own.rows, values);
  const auto ids = parallel::gather_list(ranks, std::move(own.ids), {"ids of the embedding"});
  values = parallel::gather_list(ranks, std::move(values), {"the embedding's gradient"});
  std::span<const int64_t> next_id(ids);
  std::span<const float> next(values);
  SlotTree<RowSums> tree;
  for (int64_t rank = 0; rank < ranks.size(); ++rank) {
    const Size& size = sizes[static_cast<size_t>(rank)];
    if (!size.rows) continue;
    const auto own_ids = take(next_id, size.rows);
    tree.add(rank, {{own_ids.begin(), own_ids.end()}, take_tensor(next, {size.rows, size.width})});
  }
  return tree.take();
}

model::RouterCounts gather_counts(parallel::Group& ranks,
                                  const std::vector<model::RouterCounts>& own,
                                  int64_t experts) {
  std::vector<double> numbers;
  for (const model::RouterCounts& counts : own) {
    append(counts.chosen, numbers);
    append(counts.probabilities, numbers);
    numbers.push_back(counts.tokens);
  }
  numbers = parallel::gather_list(ranks, std::move(numbers), {"counts of experts"});
  const at::Tensor zeros = at::zeros({experts}, at::TensorOptions().dtype(at::kDouble));
  model::RouterCounts sums{zeros, zeros.clone()};
  for (std::span<const double> next(numbers); !next.empty();) {
    sums.chosen.add_(take_tensor(next, {experts}));
    sums.probabilities.add_(take_tensor(next, {experts}));
    sums.tokens += take(next, 1)[0];
  }
  return sums;
}

ReplayCounts gather_counts(parallel::Group& ranks, const ReplayCounts& own) {
  ReplayCounts sums;
  for (const ReplayCounts& counts :
       parallel::gather_list(ranks, std::vector{own}, {"replayed experts"})) {
    sums.changed += counts.changed;
    sums.choices += counts.choices;
  }
  return sums;
}

}  // namespace lockstep::train
