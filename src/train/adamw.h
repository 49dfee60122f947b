// AdamW on float32 masters.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/options.h"
#include "io/safetensors.h"
#include "model/adapter.h"
#include "model/weights.h"
#include "train/shards.h"

namespace lockstep::train {

/// Which parameters get weight decay.
enum class WeightDecayRule : int {
  /// Those of two or more dimensions.
  kMatrices,
  /// As transformers' Trainer: all except those with "bias" in their name and those of norms.
  kTransformers,
  kAll,
};
std::span<const EnumName<WeightDecayRule>> enum_names(WeightDecayRule);

struct OptimizerOptions {
  /// Peak learning rate; unset: 1e-4 with adapters, 1e-5 with all weights.
  std::optional<double> learning_rate;
  double weight_decay = 0.1;
  double adam_beta1 = 0.9, adam_beta2 = 0.95, adam_epsilon = 1e-8;
  /// Gradients are scaled down to at most this global norm; 0 switches clipping off.
  double max_grad_norm = 1.0;
  WeightDecayRule weight_decay_rule = WeightDecayRule::kMatrices;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("learning_rate", learning_rate,
          "Peak learning rate; unset: 1e-4 with adapters, 1e-5 with all weights.",
          Range::at_least(0));
    visit("weight_decay", weight_decay, "Decoupled weight decay.", Range::at_least(0));
    visit("adam_beta1", adam_beta1, "Decay of the first moment.", Range::between(0, 0.999999));
    visit("adam_beta2", adam_beta2, "Decay of the second moment.", Range::between(0, 0.999999));
    visit("adam_epsilon", adam_epsilon, "Added to the root of the second moment.", Range::above(0));
    visit("max_grad_norm", max_grad_norm, "Largest global gradient norm; 0: no clipping.",
          Range::at_least(0));
    visit("weight_decay_rule", weight_decay_rule,
          "Which tensors decay: of two or more dimensions, transformers' choice, or all.");
  }
};

/// AdamW over a model's trained parameters, with float32 masters (the weights themselves if they
/// are float32) and moments. What is not trained has no state, does not decay, and is not counted
/// in the gradient norm.
///
/// Where ranks share out its state, each updates its own elements, and all gather the weights, but
/// those of layers that are gathered when they compute (GatheredLayers); no bit depends on that.
/// Writes the canonical tensors in place, so that addresses never change. Not
/// thread-safe.
class AdamW {
 public:
  AdamW(model::ModelWeights& weights,
        const OptimizerOptions& options,
        model::Adapter* adapter = nullptr,
        const Shards& shards = {parallel::alone(), Sharding::kNone});

  /// Makes one step, and packs what it has changed. `gradients[i]` belongs to parameter i of
  /// model::all_parameters(), and has the elements of it that are this rank's, in any shape; an
  /// undefined one counts as zero: moments and weights decay. Returns the global gradient norm
  /// before clipping.
  double step(const std::vector<at::Tensor>& gradients, double learning_rate);
  int64_t steps_done() const { return steps_; }
  /// Who has the state of what.
  const Shards& shards() const { return shards_; }

  /// This rank's elements of the state for a checkpoint: the moments, and for bfloat16 models the
  /// masters. By the id of a parameter that is trained whole, and by the checkpoint's names of
  /// trained pieces of others.
  std::vector<io::TensorPart> state_parts() const;
  /// Restores it. Throws FormatError "bad-optimizer-state".
  void load_state(const io::SafetensorsFile& file, int64_t steps_done);
  /// The bytes of this rank's masters and moments.
  int64_t state_bytes() const;

 private:
  /// What is trained together: a whole parameter, or a piece of one.
  struct Unit {
    std::string name;
    size_t parameter = 0;
    /// As a checkpoint knows it.
    std::vector<int64_t> shape;
    /// Of the parameter's elements, those of the unit, and those of them that are this rank's.
    parallel::ElementRange all, own;
    /// Lists of the latter.
    at::Tensor value, master, exp_avg, exp_avg_sq;
    bool decays = false;
  };
  void add_unit(size_t parameter, std::string name, std::vector<int64_t> shape, int64_t offset);
  at::Tensor gradient_of(const Unit& unit, const std::vector<at::Tensor>& gradients) const;
  double norm_of(const std::vector<at::Tensor>& gradients) const;
  std::vector<std::vector<double>> gather_blocks(const std::vector<std::vector<double>>& own) const;
  void share_weights();
  void share_held(const std::vector<const model::Parameter*>& parameters) const;

  model::ModelWeights* weights_;
  model::Adapter* adapter_;
  std::vector<model::Parameter*> parameters_;
  OptimizerOptions options_;
  Shards shards_;
  std::vector<Unit> units_;
  int64_t steps_ = 0;
};

/// The norm of all gradients together: float64 sums of squares by blocks, in the order of the
/// parameters.
double gradient_norm(const std::vector<at::Tensor>& gradients);

}  // namespace lockstep::train
