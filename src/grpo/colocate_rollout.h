// The sampler in the trainer's process, over the trainer's own tensors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "grpo/rollout_client.h"
#include "rollout/engine.h"

namespace lockstep::grpo {

/// Publishing moves no bytes; publish() asserts this by comparing addresses. Runs that take turns
/// have one each over the same engine, whose caches serve them all.
class ColocateRollout : public RolloutClient {
 public:
  /// All must outlive it. `engine` is one of such a model, and samples under `weights` for this
  /// client; `exact` as in rollout::GenerationSettings; `adapter` may be null.
  ColocateRollout(rollout::Engine& engine,
                  const model::ModelWeights& weights,
                  const text::Tokenizer& tokenizer,
                  bool exact,
                  const model::Adapter* adapter = nullptr);

  int64_t max_model_len() const override;
  void check_room(int64_t prompt_tokens, int64_t max_new_tokens) const override;
  SamplerMemory planned_memory(std::span<const rollout::GroupSpec> groups,
                               bool in_turns) const override;
  void begin_turns(std::span<const rollout::GroupSpec> groups) override;
  void end_turns() noexcept override;
  void keep_caches(bool keep) override { keeps_caches_ = keep; }
  bool has_trained_weights() const override { return true; }
  bool keeps_layer_inputs() const override { return true; }
  Published publish(int64_t weight_version) override;
  std::vector<ServerScores> score(const std::vector<int64_t>&) override { return {}; }
  Completions generate(std::span<const rollout::Request> requests,
                       int64_t weight_version,
                       const Watch& watch) override;
  Completions generate_and_keep(std::span<const rollout::Request> requests,
                                int64_t weight_version,
                                const Watch& watch,
                                model::LayerInputs& kept) override;

 private:
  Completions run(std::span<const rollout::Request> requests,
                  int64_t weight_version,
                  const Watch& watch,
                  model::LayerInputs* kept);

  rollout::Engine* engine_;
  const model::ModelWeights* weights_;
  const text::Tokenizer* tokenizer_;
  bool is_exact_;
  const model::Adapter* adapter_;
  std::vector<const void*> addresses_;
  int64_t version_ = -1;
  bool keeps_caches_ = false, is_in_turns_ = false;
};

}  // namespace lockstep::grpo
