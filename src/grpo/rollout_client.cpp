// SPDX-License-Identifier: Apache-2.0
#include "grpo/rollout_client.h"

#include "base/check.h"

namespace lockstep::grpo {

ColocateRollout::ColocateRollout(const model::ModelWeights& weights,
                                 const rollout::EngineOptions& options)
    : weights_(&weights), engine_(weights, options) {
  for (const auto& parameter : weights.parameters())
    addresses_.push_back(parameter.value.const_data_ptr());
}

void ColocateRollout::publish(int64_t weight_version) {
  for (size_t i = 0; i < addresses_.size(); ++i)
    LOCKSTEP_CHECK(weights_->parameters()[i].value.const_data_ptr() == addresses_[i],
                   "{} moved: trainer and sampler no longer share storage",
                   weights_->parameters()[i].id);
  version_ = weight_version;
}

std::vector<std::vector<rollout::Completion>> ColocateRollout::generate(
    std::span<const rollout::GenerationRequest> requests,
    const rollout::GenerationSettings& settings,
    int64_t weight_version,
    const rollout::Engine::Progress& progress) {
  if (weight_version != version_)
    fail<PeerError>("version-mismatch", "sampler", "expected weights of version {}, got {}",
                    weight_version, version_);
  auto completions = engine_.generate(requests, settings, progress);
  if (!keeps_caches_) engine_.release_cache();
  return completions;
}

}  // namespace lockstep::grpo
