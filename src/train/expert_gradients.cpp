// SPDX-License-Identifier: Apache-2.0
#include "train/expert_gradients.h"

#include "base/check.h"
#include "tensor/aten.h"

namespace lockstep::train {

ExpertGradients::ExpertGradients(model::ExpertRanks& ranks,
                                 const std::vector<model::Parameter*>& parameters)
    : ranks_(ranks) {
  for (size_t i = 0; i < parameters.size(); ++i)
    if (parameters[i]->is_expert) numbers_[parameters[i]->value.unsafeGetTensorImpl()] = i;
  ranks_.set_take([this](const at::Tensor& bank, int64_t source, at::Tensor gradient) {
    add(bank, source, std::move(gradient));
  });
}

void ExpertGradients::add(const at::Tensor& bank, int64_t source, at::Tensor gradient) {
  const auto found = numbers_.find(bank.unsafeGetTensorImpl());
  LOCKSTEP_CHECK(found != numbers_.end(), "a gradient of rank {} for no parameter", source);
  auto& trees = sums_[found->second];
  trees.resize(static_cast<size_t>(ranks_.size()));
  SlotTree<TensorSum>& tree = trees[static_cast<size_t>(source)];
  const Slots& slots = slots_[static_cast<size_t>(source)];
  tree.add(slots.slot, {std::move(gradient)});
  if (slots.next > slots.slot) tree.finish(slots.next - 1);
}

at::Tensor ExpertGradients::take(size_t parameter) {
  const auto found = sums_.find(parameter);
  if (found == sums_.end()) return {};
  SlotTree<TensorSum> over_ranks;
  for (size_t rank = 0; rank < found->second.size(); ++rank)
    over_ranks.add(static_cast<int64_t>(rank), found->second[rank].take());
  sums_.erase(found);
  return over_ranks.take().value;
}

}  // namespace lockstep::train
