// Weights of layers that ranks share out, whole while they are used.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/weights.h"
#include "train/shards.h"

namespace lockstep::train {

/// The trained weights of a model's layers. With Sharding::kFull a rank holds its own elements of
/// them; a layer is gathered before it computes, and given back after. Else they are always whole,
/// and nothing here does anything.
///
/// The tensors keep their addresses: of a layer that is given back the system takes the pages. All
/// ranks make the same calls in the same order. Not thread-safe.
class GatheredLayers {
 public:
  /// `weights` must outlive it. They are whole at first.
  GatheredLayers(model::ModelWeights& weights, const Shards& shards);

  /// Makes a layer whole and packs it, unless it is whole.
  void gather(int64_t layer);
  /// Gives back what is not this rank's of it, and its packed form.
  void give_back(int64_t layer);
  void gather_all();
  void give_all_back();

 private:
  struct Layer {
    /// Those of its parameters that are shared out.
    std::vector<size_t> parameters;
    bool is_whole = true;
  };
  model::ModelWeights* weights_;
  Shards shards_;
  std::vector<Layer> layers_;
};

}  // namespace lockstep::train
