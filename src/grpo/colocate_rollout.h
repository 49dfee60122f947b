// The sampler in the trainer's process, over the trainer's own tensors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "grpo/rollout_client.h"
#include "rollout/engine.h"

namespace lockstep::grpo {

/// Publishing moves no bytes; publish() asserts this by comparing addresses.
class ColocateRollout : public RolloutClient {
 public:
  /// All but the options must outlive it. `exact` as in rollout::GenerationSettings; `adapter` may
  /// be null.
  ColocateRollout(const model::ModelWeights& weights,
                  const text::Tokenizer& tokenizer,
                  const rollout::EngineOptions& options,
                  bool exact,
                  const model::Adapter* adapter = nullptr);

  int64_t max_model_len() const override;
  void check_room(int64_t prompt_tokens, int64_t max_new_tokens) const override;
  SamplerMemory planned_memory(std::span<const rollout::GroupSpec> groups) const override;
  void keep_caches(bool keep) override { keeps_caches_ = keep; }
  bool keeps_layer_inputs() const override { return true; }
  void publish(int64_t weight_version) override;
  Completions generate(std::span<const rollout::Request> requests,
                       int64_t weight_version,
                       const Progress& progress) override;
  Completions generate_and_keep(std::span<const rollout::Request> requests,
                                int64_t weight_version,
                                const Progress& progress,
                                model::LayerInputs& kept) override;

 private:
  Completions run(std::span<const rollout::Request> requests,
                  int64_t weight_version,
                  const Progress& progress,
                  model::LayerInputs* kept);

  const model::ModelWeights* weights_;
  const text::Tokenizer* tokenizer_;
  rollout::EngineOptions options_;
  bool is_exact_;
  rollout::Engine engine_;
  std::vector<const void*> addresses_;
  int64_t version_ = -1;
  bool keeps_caches_ = false;
};

}  // namespace lockstep::grpo
