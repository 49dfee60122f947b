// What a rank of many has in memory and moves over the network: arithmetic over a model's shapes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/options.h"
#include "model/adapter.h"
#include "model/config.h"
#include "model/weights.h"
#include "train/shard_plan.h"
#include "train/shards.h"

namespace lockstep::train {

/// Over how many ranks what is cut.
struct ParallelDegrees {
  int64_t ranks = 1, expert_parallel = 1, sequence_parallel = 1;
  /// How many ranks have sequences of their own.
  int64_t data_parallel() const { return ranks / sequence_parallel; }
};

/// Throws ConfigError "bad-degree", at the flag, for degrees that do not divide the ranks or what
/// they cut of the model.
void check_degrees(const model::ModelConfig& config, const ParallelDegrees& degrees);

/// A parameter, as far as costs go.
struct CostedParameter {
  ShardItem item;
  /// Bytes of an element as the model computes with it.
  int64_t element_size = 2;
  bool is_trained = true;
  /// Whether Sharding::kFull cuts it as well: trained weights of a layer (Shards::is_cut).
  bool is_cut = false;
  /// Whether the gradient is exchanged: that of an embedding of its own goes by its tokens' rows.
  bool is_exchanged = true;
  /// What is gathered together, and whose gradients are exchanged together, has the same number: a
  /// layer, or all that is outside of layers.
  int64_t unit = 0;
};

/// An adapter's pairs beside a target.
struct AdaptedTarget {
  model::AdapterTarget target;
  int64_t rank = 0;
};

/// A model's parameters, and those of an adapter behind them, with which the model's own are not
/// trained.
std::vector<CostedParameter> costed_parameters(
    const model::ModelConfig& config,
    std::span<const model::Parameter> parameters,
    model::WeightDtype dtype,
    const std::optional<std::vector<AdaptedTarget>>& adapter);

/// Bytes of one rank. Activations, key-value caches and the sampler's packed weights come on top.
struct RankBytes {
  // In memory.
  int64_t weights = 0;
  /// The float32 weights that are updated, where those above are bfloat16; the two moments.
  int64_t masters = 0, moments = 0;
  /// Summed, float32.
  int64_t gradients = 0;
  /// Where something is cut: a whole layer, beside what of it has just come, and the float32
  /// gradients of a whole unit.
  int64_t gathered_units = 0, unit_gradients = 0;
  int64_t memory() const {
    return weights + masters + moments + gradients + gathered_units + unit_gradients;
  }

  // Received over the network.
  /// The weights of others, in each pass through the model (a forward, a backward).
  int64_t gather_pass = 0;
  /// The gradients that others have of what is this rank's, once a step.
  int64_t exchange = 0;
  /// What others have updated, or summed, once a step.
  int64_t update = 0;
  /// In a step of one forward and one backward pass.
  int64_t step() const { return 2 * gather_pass + exchange + update; }
  /// What of that comes from other hosts.
  int64_t step_from_hosts = 0;
};

/// The costs of the ranks of a plan. Immutable.
class RankCosts {
 public:
  /// `ranks_per_host`: neighbouring ranks share a host. The arguments must outlive it.
  RankCosts(std::span<const CostedParameter> parameters,
            const ShardPlan& plan,
            Sharding sharding,
            int64_t ranks_per_host);

  RankBytes of(int64_t rank) const;

 private:
  /// What all ranks gather in a call: each sends as much as the one that has most.
  struct Gathered {
    /// Of dense parameters, and of those of experts.
    int64_t longest[2] = {0, 0};
  };
  /// Adds a call that gathers parameters, of `size(i)` bytes an element, to `sum`.
  template <class Size>
  void add_call(std::span<const size_t> parameters, Size&& size, Gathered& sum) const;
  void add_gathers();
  void add_updates();
  /// How many other ranks hold what a rank does, and how many of these are on other hosts.
  std::pair<int64_t, int64_t> peers(bool is_expert, int64_t rank) const;
  /// What a rank receives in calls, in all and from other hosts.
  std::pair<int64_t, int64_t> received(const Gathered& gathered, int64_t rank) const;

  std::span<const CostedParameter> parameters_;
  const ShardPlan& plan_;
  Sharding sharding_;
  int64_t ranks_per_host_;
  Gathered gather_pass_, update_;
  int64_t largest_layer_ = 0;
  size_t num_units_ = 0;
};

/// Bytes that a rank receives for each of its tokens in one forward pass through the model; a
/// backward pass moves as many.
struct TokenBytes {
  /// The rows that its experts on other ranks get and give back.
  double expert_rows = 0;
  /// The heads of queries, keys, values and outputs that change ranks, of attention and of the
  /// delta rule.
  double heads = 0;
};
TokenBytes token_bytes(const model::ModelConfig& config,
                       model::WeightDtype dtype,
                       const ParallelDegrees& degrees);

}  // namespace lockstep::train
