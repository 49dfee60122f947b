// SPDX-License-Identifier: Apache-2.0
#include "grpo/router_replay.h"

#include "base/check.h"
#include "tensor/aten.h"

namespace lockstep::grpo {

std::span<const EnumName<RouterReplayMode>> enum_names(RouterReplayMode) {
  static constexpr EnumName<RouterReplayMode> kNames[] = {{RouterReplayMode::kDisabled, "disabled"},
                                                          {RouterReplayMode::kR2, "R2"},
                                                          {RouterReplayMode::kR3, "R3"}};
  return kNames;
}

rollout::RecordExperts RouterReplayOptions::of_sampler() const {
  if (!by_sampler()) return rollout::RecordExperts::kNothing;
  return router_replay_weights ? rollout::RecordExperts::kIdsAndWeights
                               : rollout::RecordExperts::kIds;
}

void RouterReplayOptions::validate(const RolloutOptions& rollout) const {
  if (router_replay_weights && !is_on())
    fail<ConfigError>("bad-flag", "--router_replay_weights",
                      "expected false with --router_replay_mode disabled, got true");
  if (by_trainer() && rollout.async_generate)
    fail<ConfigError>(
        "bad-flag", "--router_replay_mode",
        "expected disabled or R3 with --async_generate true, got R2 (the weights that "
        "sampled are gone when a batch arrives; the sampler's own choices are in it)");
  if (by_sampler() && rollout.rollout_engine == RolloutEngine::kVllm)
    fail<ConfigError>("bad-flag", "--router_replay_mode",
                      "expected disabled or R2 with --rollout_engine vllm, got R3 (vLLM's "
                      "/v1/completions tells no experts)");
}

void RouterReplayOptions::check(const model::ModelConfig& model) const {
  if (is_on() && !model.num_experts)
    fail<ConfigError>("bad-flag", "--router_replay_mode",
                      "expected disabled for a model without experts, got {}",
                      enum_name(router_replay_mode));
}

int64_t RouterReplayOptions::token_bytes(const model::ModelConfig& model) const {
  if (!is_on()) return 0;
  const auto values = model.num_moe_layers() * model.num_experts_per_tok;
  return values *
         static_cast<int64_t>(sizeof(int32_t) + (router_replay_weights ? sizeof(float) : 0));
}

model::ExpertChoices routed_of(const rollout::Completion& completion) {
  if (!completion.prompt_experts) return {};
  const rollout::RoutedExperts &prompt = *completion.prompt_experts, &own = completion.experts;
  const std::vector<int64_t> shape{prompt.tokens() + own.tokens(), prompt.layers, prompt.chosen};
  const auto joined = [&](const auto& first, const auto& second, at::ScalarType dtype) {
    using T = std::decay_t<decltype(first[0])>;
    const at::Tensor made = at::empty(shape, at::TensorOptions().dtype(dtype));
    std::copy(second.begin(), second.end(),
              std::copy(first.begin(), first.end(), made.mutable_data_ptr<T>()));
    return made;
  };
  model::ExpertChoices routed{joined(prompt.ids, own.ids, at::kInt), {}};
  if (!prompt.weights.empty()) routed.weights = joined(prompt.weights, own.weights, at::kFloat);
  return routed;
}

}  // namespace lockstep::grpo
