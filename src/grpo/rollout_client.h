// The sampler as the training loop sees it: it completes a batch of prompts under a given version
// of the weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "rollout/engine.h"

namespace lockstep::grpo {

/// The colocate mode implements this; a server mode would, too.
class RolloutClient {
 public:
  virtual ~RolloutClient() = default;
  /// Samples completions of each request under `weight_version` and no other.
  /// Throws PeerError "version-mismatch" if the sampler holds other weights.
  virtual std::vector<std::vector<rollout::Completion>> generate(
      std::span<const rollout::GenerationRequest> requests,
      const rollout::GenerationSettings& settings,
      int64_t weight_version,
      const rollout::Engine::Progress& progress) = 0;
  /// Says that the trainer's weights are of `weight_version` now.
  virtual void publish(int64_t weight_version) = 0;
};

/// The sampler in the trainer's process, over the trainer's own tensors. Publishing moves no bytes;
/// publish() asserts this by comparing addresses.
class ColocateRollout : public RolloutClient {
 public:
  ColocateRollout(const model::ModelWeights& weights, const rollout::EngineOptions& options);
  std::vector<std::vector<rollout::Completion>> generate(
      std::span<const rollout::GenerationRequest> requests,
      const rollout::GenerationSettings& settings,
      int64_t weight_version,
      const rollout::Engine::Progress& progress) override;
  void publish(int64_t weight_version) override;
  /// Whether the caches stay from one generation to the next; if not, training has their memory in
  /// between.
  void keep_caches(bool keep) { keeps_caches_ = keep; }

 private:
  const model::ModelWeights* weights_;
  rollout::Engine engine_;
  std::vector<const void*> addresses_;
  int64_t version_ = -1;
  bool keeps_caches_ = false;
};

}  // namespace lockstep::grpo
