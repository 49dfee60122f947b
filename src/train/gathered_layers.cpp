// SPDX-License-Identifier: Apache-2.0
#include "train/gathered_layers.h"

#include <fmt/format.h>

#include "base/heap.h"
#include "parallel/ordered_sum.h"
#include "tensor/aten.h"

namespace lockstep::train {

GatheredLayers::GatheredLayers(model::ModelWeights& weights, const Shards& shards)
    : weights_(&weights), shards_(shards), layers_(weights.layers().size()) {
  for (size_t i = 0; i < weights.parameters().size(); ++i)
    if (const model::Parameter& parameter = weights.parameters()[i]; shards.is_cut(parameter))
      layers_[static_cast<size_t>(parameter.layer)].parameters.push_back(i);
}

void GatheredLayers::gather(int64_t index) {
  Layer& layer = layers_[static_cast<size_t>(index)];
  if (layer.is_whole) return;
  std::vector<parallel::SharedList> lists;
  for (const size_t i : layer.parameters)
    lists.push_back(bytes_of(weights_->parameters()[i].value));
  parallel::share_ranges(shards_.ranks(), lists, {fmt::format("weights of layer {}", index)});
  weights_->pack([&](const model::Parameter& parameter) { return parameter.layer == index; });
  layer.is_whole = true;
}

void GatheredLayers::give_back(int64_t index) {
  Layer& layer = layers_[static_cast<size_t>(index)];
  if (!layer.is_whole || layer.parameters.empty()) return;
  for (const size_t i : layer.parameters) {
    const model::Parameter& parameter = weights_->parameters()[i];
    const parallel::SharedList list = bytes_of(parameter.value);
    const parallel::ElementRange own = shards_.range(parameter);
    const auto first = static_cast<size_t>(own.first * list.element_size),
               last = static_cast<size_t>(own.last * list.element_size);
    drop_pages(list.bytes.data(), first);
    drop_pages(list.bytes.data() + last, list.bytes.size() - last);
    weights_->drop_packed(i);
  }
  layer.is_whole = false;
}

void GatheredLayers::gather_all() {
  for (int64_t i = 0; i < std::ssize(layers_); ++i) gather(i);
}

void GatheredLayers::give_all_back() {
  for (int64_t i = 0; i < std::ssize(layers_); ++i) give_back(i);
}

}  // namespace lockstep::train
