// SPDX-License-Identifier: Apache-2.0
#include "train/gathered_layers.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/heap.h"
#include "tensor/aten.h"

namespace lockstep::train {

model::PartToLoad own_parts(const Shards& shards) {
  return [shards](const model::Parameter& parameter) -> std::optional<model::LoadedPart> {
    const bool is_cut = shards.is_cut(parameter), is_parted = shards.is_parted(parameter);
    if (!is_cut && !is_parted) return std::nullopt;
    const parallel::ElementRange held = shards.held(parameter);
    model::LoadedPart part{.elements = is_cut ? shards.range(parameter) : held,
                           .is_packed = !is_cut};
    if (const int64_t expert = Shards::period(parameter)) {
      part.first_expert = held.first / expert;
      part.num_experts = held.count() / expert;
    }
    return part;
  };
}

GatheredLayers::GatheredLayers(model::ModelWeights& weights,
                               const Shards& shards,
                               std::shared_ptr<model::ExpertRanks> experts)
    : weights_(&weights),
      shards_(shards),
      experts_(std::move(experts)),
      layers_(weights.layers().size()) {
  for (size_t i = 0; i < weights.parameters().size(); ++i) {
    const model::Parameter& parameter = weights.parameters()[i];
    if (parameter.layer == model::Parameter::kNoLayer) continue;
    Layer& layer = layers_[static_cast<size_t>(parameter.layer)];
    const bool is_parted = shards.is_parted(parameter);
    if (is_parted && parameter.is_trained()) layer.parted.push_back(i);
    if (is_parted && !parameter.is_trained()) lacks_frozen_ |= weights.is_loaded_in_part();
    if (shards.is_cut(parameter)) (is_parted ? layer.cut_experts : layer.cut).push_back(i);
  }
  if (!weights.is_loaded_in_part()) return;
  for (Layer& layer : layers_) {
    layer.is_held = layer.cut.empty() && layer.cut_experts.empty();
    layer.has_all_experts = layer.parted.empty();
  }
}

/// Begins to share parameters that the same ranks hold.
void GatheredLayers::begin(const std::vector<size_t>& parameters, int64_t layer) {
  if (parameters.empty()) return;
  std::vector<parallel::SharedList> lists;
  for (const size_t i : parameters) lists.push_back(shards_.held_list(weights_->parameters()[i]));
  shared_.emplace_back(shards_.holders(weights_->parameters()[parameters.front()]),
                       std::move(lists), parallel::Call{fmt::format("weights of layer {}", layer)});
}

void GatheredLayers::begin(int64_t index) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  if (layer.is_held) return;
  coming_ = index;
  begin(layer.cut, index);
  begin(layer.cut_experts, index);
}

/// Puts the layer that comes in its place.
void GatheredLayers::finish() {
  if (coming_ < 0) return;
  for (parallel::SharedRanges& shared : shared_) shared.wait();
  shared_.clear();
  layers_[static_cast<size_t>(std::exchange(coming_, -1))].is_held = true;
}

void GatheredLayers::gather(int64_t index, std::optional<int64_t> next) {
  weights_->share_experts(experts_);
  const bool was_held = layers_[static_cast<size_t>(index)].is_held;
  LOCKSTEP_CHECK(coming_ < 0 || coming_ == index, "layer {} comes, {} is asked for", coming_,
                 index);
  if (coming_ < 0) begin(index);
  finish();
  if (next) begin(*next);
  if (was_held) return;
  weights_->pack([&](const model::Parameter& parameter) {
    return parameter.layer == index && shards_.is_cut(parameter);
  });
}

/// Brings the experts of other ranks.
void GatheredLayers::gather_experts(Layer& layer) {
  for (const size_t i : layer.parted) {
    const model::Parameter& parameter = weights_->parameters()[i];
    const std::span<std::byte> all = bytes_of(parameter.value).bytes;
    shards_.experts()->all_gather(shards_.held_list(parameter).bytes, all,
                                  {fmt::format("experts of layer {}", parameter.layer)});
    weights_->keep_experts(i, 0, parameter.value.size(0));
  }
  weights_->pack([&](const model::Parameter& parameter) {
    return shards_.is_parted(parameter) && parameter.is_trained() &&
           &layer == &layers_[static_cast<size_t>(parameter.layer)];
  });
}

void GatheredLayers::drop_outside(size_t parameter, const parallel::ElementRange& kept) {
  const parallel::SharedList list = bytes_of(weights_->parameters()[parameter].value);
  const auto first = static_cast<size_t>(kept.first * list.element_size),
             last = static_cast<size_t>(kept.last * list.element_size);
  drop_pages(list.bytes.data(), first);
  drop_pages(list.bytes.data() + last, list.bytes.size() - last);
}

/// Gives back the experts of other ranks.
void GatheredLayers::drop_experts(Layer& layer) {
  if (layer.has_all_experts)
    for (const size_t i : layer.parted) {
      const model::Parameter& parameter = weights_->parameters()[i];
      const parallel::ElementRange held = shards_.held(parameter);
      drop_outside(i, held);
      const int64_t expert = Shards::period(parameter);
      weights_->keep_experts(i, held.first / expert, held.count() / expert);
    }
  layer.has_all_experts = layer.parted.empty();
}

void GatheredLayers::give_back(int64_t index) {
  Layer& layer = layers_[static_cast<size_t>(index)];
  drop_experts(layer);
  if (!layer.is_held) return;
  for (const auto* cut : {&layer.cut, &layer.cut_experts})
    for (const size_t i : *cut) {
      drop_outside(i, shards_.range(weights_->parameters()[i]));
      weights_->drop_packed(i);
    }
  layer.is_held = layer.cut.empty() && layer.cut_experts.empty();
}

void GatheredLayers::gather_layers() {
  // What the last step has freed would stay beside what comes now.
  if (std::any_of(layers_.begin(), layers_.end(),
                  [](const Layer& layer) { return !layer.is_held; }))
    release_freed_memory();
  bool has_all_experts = !lacks_frozen_;
  for (int64_t i = 0; i < std::ssize(layers_); ++i) {
    gather(i);
    Layer& layer = layers_[static_cast<size_t>(i)];
    drop_experts(layer);
    has_all_experts &= layer.has_all_experts;
  }
  // A sampler that has all experts steps without waiting for others.
  if (has_all_experts) weights_->share_experts(nullptr);
}

void GatheredLayers::gather_all() {
  for (int64_t i = 0; i < std::ssize(layers_); ++i) {
    gather(i);
    Layer& layer = layers_[static_cast<size_t>(i)];
    if (!layer.has_all_experts) gather_experts(layer);
    layer.has_all_experts = true;
  }
  if (!lacks_frozen_) weights_->share_experts(nullptr);
}

void GatheredLayers::give_all_back() {
  for (int64_t i = 0; i < std::ssize(layers_); ++i) give_back(i);
}

}  // namespace lockstep::train
