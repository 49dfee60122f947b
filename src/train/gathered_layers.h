// Weights of layers that ranks share out, whole while they are used.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "model/expert_ranks.h"
#include "model/weights.h"
#include "parallel/shared_ranges.h"
#include "train/shards.h"

namespace lockstep::train {

/// What a rank loads of a model whose parameters are all trained, or are all frozen: what it holds
/// while no layer computes.
model::PartToLoad own_parts(const Shards& shards);

/// The trained weights of a model's layers, of which a rank holds its own elements (Shards): with
/// Sharding::kFull a layer is gathered before it computes, and given back after. Experts that ranks
/// share out stay where they are, but for gather_all(). Where every rank holds everything, nothing
/// here does anything.
///
/// The tensors keep their addresses: of what is given back the system takes the pages. All ranks
/// make the same calls in the same order. Not thread-safe.
class GatheredLayers {
 public:
  /// `weights` must outlive it. They are whole at first, or loaded as own_parts() says. `experts`:
  /// those that share out experts, if any do.
  GatheredLayers(model::ModelWeights& weights,
                 const Shards& shards,
                 std::shared_ptr<model::ExpertRanks> experts = nullptr);

  /// Begins to gather a layer, unless it is there. Its bytes come into memory of their own. The
  /// next layer that is gathered is this one.
  void begin(int64_t layer);
  /// Makes all of a layer that this rank computes with ready, and packs it. Forwards compute with
  /// the experts of other ranks from now on. `next`: the one that begins then, if any, and comes
  /// while this one computes.
  void gather(int64_t layer, std::optional<int64_t> next = std::nullopt);
  /// Gives back what is not this rank's of it, and its packed form.
  void give_back(int64_t layer);
  /// Makes all of all layers ready that this rank computes with, for a sampler's forwards.
  void gather_layers();
  /// Makes all weights whole, those of others' experts, too: a forward is this rank's alone. Frozen
  /// experts that were loaded in part stay where they are, and forwards those of all ranks.
  void gather_all();
  void give_all_back();

 private:
  struct Layer {
    /// Those of its parameters that ranks cut, of which all ranks hold all, or the same experts;
    /// and all of which each rank holds some experts.
    std::vector<size_t> cut, cut_experts, parted;
    /// Whether what this rank holds is there, and whether the experts of others are, too.
    bool is_held = true, has_all_experts = true;
  };
  void begin(const std::vector<size_t>& parameters, int64_t layer);
  void finish();
  void gather_experts(Layer& layer);
  void drop_experts(Layer& layer);
  void drop_outside(size_t parameter, const parallel::ElementRange& kept);

  model::ModelWeights* weights_;
  Shards shards_;
  std::shared_ptr<model::ExpertRanks> experts_;
  std::vector<Layer> layers_;
  /// Whether frozen experts were loaded in part.
  bool lacks_frozen_ = false;
  /// The layer that comes, and what of it.
  int64_t coming_ = -1;
  std::vector<parallel::SharedRanges> shared_;
};

}  // namespace lockstep::train
