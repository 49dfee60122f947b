// SPDX-License-Identifier: Apache-2.0
#include "grpo/colocate_rollout.h"

#include "base/check.h"

namespace lockstep::grpo {
namespace {

/// The engine's own form of requests, which all have the settings of the first but for lengths.
rollout::GenerationSettings settings_of(const rollout::RequestSettings& shared) {
  rollout::GenerationSettings settings;
  settings.sampling = shared.sampling;
  settings.max_new_tokens = shared.max_new_tokens;
  settings.stop_ids = shared.stop_ids;
  settings.stop_strings = shared.stop_strings;
  settings.ignore_eos = shared.ignore_eos;
  settings.seed = shared.seed;
  settings.record_experts = shared.record_experts;
  return settings;
}

}  // namespace

ColocateRollout::ColocateRollout(rollout::Engine& engine,
                                 const model::ModelWeights& weights,
                                 const text::Tokenizer& tokenizer,
                                 bool exact,
                                 const model::Adapter* adapter)
    : engine_(&engine),
      weights_(&weights),
      tokenizer_(&tokenizer),
      is_exact_(exact),
      adapter_(adapter) {
  for (const auto& parameter : weights.parameters())
    addresses_.push_back(parameter.value.const_data_ptr());
}

int64_t ColocateRollout::max_model_len() const { return engine_->max_model_len(); }

void ColocateRollout::check_room(int64_t prompt_tokens, int64_t max_new_tokens) const {
  engine_->check_room(prompt_tokens, max_new_tokens);
}

SamplerMemory ColocateRollout::planned_memory(std::span<const rollout::GroupSpec> groups,
                                              bool in_turns) const {
  return {engine_->planned_cache_bytes(groups, in_turns), engine_->planned_work_bytes(groups),
          engine_->planned_sequences(groups)};
}

void ColocateRollout::begin_turns(std::span<const rollout::GroupSpec> groups) {
  engine_->use(*weights_, adapter_);
  engine_->hold_prefixes(groups);
  is_in_turns_ = true;
}

void ColocateRollout::end_turns() noexcept {
  engine_->drop_prefixes();
  is_in_turns_ = false;
  if (!keeps_caches_) engine_->release_cache();
}

RolloutClient::Published ColocateRollout::publish(int64_t weight_version) {
  const auto& parameters = weights_->parameters();
  for (size_t i = 0; i < addresses_.size(); ++i)
    LOCKSTEP_CHECK(parameters[i].value.const_data_ptr() == addresses_[i],
                   "{} moved: trainer and sampler no longer share storage", parameters[i].id);
  version_ = weight_version;
  return {};
}

RolloutClient::Completions ColocateRollout::generate(std::span<const rollout::Request> requests,
                                                     int64_t weight_version,
                                                     const Watch& watch) {
  return run(requests, weight_version, watch, nullptr);
}

RolloutClient::Completions ColocateRollout::generate_and_keep(
    std::span<const rollout::Request> requests,
    int64_t weight_version,
    const Watch& watch,
    model::LayerInputs& kept) {
  return run(requests, weight_version, watch, &kept);
}

RolloutClient::Completions ColocateRollout::run(std::span<const rollout::Request> requests,
                                                int64_t weight_version,
                                                const Watch& watch,
                                                model::LayerInputs* kept) {
  if (weight_version != version_)
    fail<PeerError>("version-mismatch", "sampler", "expected weights of version {}, got {}",
                    weight_version, version_);
  if (requests.empty()) return {};
  rollout::GenerationSettings settings = settings_of(requests[0].settings);
  settings.tokenizer = tokenizer_;
  settings.exact = is_exact_;
  settings.keep = kept;
  settings.on_done = watch.done;
  std::vector<rollout::GenerationRequest> groups;
  for (const rollout::Request& request : requests)
    groups.push_back({request.prompt, request.num_samples, request.occurrence, request.draw,
                      request.settings.max_new_tokens});
  engine_->use(*weights_, adapter_);
  auto completions = engine_->generate(groups, settings, watch.progress);
  if (!keeps_caches_ && !is_in_turns_) engine_->release_cache();
  return completions;
}

}  // namespace lockstep::grpo
