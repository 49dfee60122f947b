// Router replay: which experts a mixture of experts trains with. That a router chooses other ones
// in training than it chose before changes the policy by a jump, which no ratio can follow.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/options.h"
#include "grpo/options.h"
#include "model/config.h"
#include "model/decoder.h"  // ExpertChoices
#include "rollout/completion.h"

namespace lockstep::grpo {

/// Whose choice of experts a step trains with. The names are ms-swift's.
enum class RouterReplayMode : int {
  kDisabled,
  /// That of the trainer when it scored the policy that sampled.
  kR2,
  /// That of the sampler.
  kR3,
};
std::span<const EnumName<RouterReplayMode>> enum_names(RouterReplayMode);

struct RouterReplayOptions {
  RouterReplayMode router_replay_mode = RouterReplayMode::kDisabled;
  bool router_replay_weights = false;

  bool is_on() const { return router_replay_mode != RouterReplayMode::kDisabled; }
  /// Whether the trainer or the sampler records.
  bool by_trainer() const { return router_replay_mode == RouterReplayMode::kR2; }
  bool by_sampler() const { return router_replay_mode == RouterReplayMode::kR3; }
  /// What the sampler tells.
  rollout::RecordExperts of_sampler() const;
  /// Throws ConfigError "bad-flag" for what cannot be together.
  void validate(const RolloutOptions& rollout) const;
  /// The same for a model without experts.
  void check(const model::ModelConfig& model) const;
  /// How many bytes a token's experts take.
  int64_t token_bytes(const model::ModelConfig& model) const;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("router_replay_mode", router_replay_mode,
          "The experts that a mixture of experts trains with: disabled, those that its routers "
          "choose then; R2, those that the trainer chose under the weights that sampled; R3, those "
          "that the sampler chose.");
    visit("router_replay_weights", router_replay_weights,
          "Replays the experts' weights, too: routers learn nothing from replayed tokens then but "
          "by --router_aux_loss_coef.");
  }
};

/// The experts of a completion and its prompt, as the sampler told them; undefined if it did not.
model::ExpertChoices routed_of(const rollout::Completion& completion);

}  // namespace lockstep::grpo
