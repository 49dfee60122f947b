// Sampling: prompts to groups of completions, as experiences that know no reward yet.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "grpo/experience.h"
#include "grpo/metrics.h"
#include "grpo/prompts.h"
#include "grpo/rollout_client.h"

namespace lockstep::grpo {

/// What a round of sampling brought: `group_size` completions of each prompt, group by group.
struct SampledGroups {
  /// One a group; they outlive it.
  std::vector<const Prompt*> prompts;
  int64_t group_size = 1;
  /// [prompts * group_size], without advantages.
  std::vector<Experience> experiences;
  /// Their texts, as rewards and logs see them: the prompt's response prefix, then the completion
  /// without the stop token that ended it.
  std::vector<std::string> texts;

  /// The prompt of a completion.
  const Prompt& prompt_of(size_t completion) const {
    return *prompts[completion / static_cast<size_t>(group_size)];
  }
  /// The sampled tokens of a completion, the stop token included.
  std::span<const int64_t> token_ids(size_t completion) const {
    const Experience& experience = experiences[completion];
    return std::span(experience.sample.ids).last(experience.sampler_logprobs.size());
  }
};

/// Samples groups of completions. Not thread-safe.
class GroupSampler {
 public:
  /// `encoder` and `rollout` must outlive it. `stop_ids` end a completion.
  GroupSampler(const GrpoOptions& options,
               const text::ChatEncoder& encoder,
               RolloutClient& rollout,
               std::vector<int64_t> stop_ids,
               const RunContext& context);

  /// What is sampled, and under which keys.
  struct Draw {
    int64_t group_size = 1;
    /// The weights that the sampler must hold.
    int64_t weight_version = 0;
    /// Tells apart draws of one prompt.
    uint64_t number = 0;
    /// Where what the layers read is kept; null: nowhere.
    std::shared_ptr<model::LayerInputs> kept;
    /// Told how many tokens are sampled so far, and how many completions are through.
    rollout::Engine::Progress progress = [](int64_t, int64_t) {};
  };
  /// Completions of the prompts. Throws what RolloutClient::generate does, and InterruptedError.
  SampledGroups sample(std::vector<const Prompt*> prompts, const Draw& draw) const;

 private:
  const text::ChatEncoder* encoder_;
  RolloutClient* rollout_;
  rollout::GenerationSettings settings_;
};

/// Adds the metrics of the completions' lengths, their names behind `prefix` ("" or "eval_").
void add_length_metrics(const SampledGroups& groups, const std::string& prefix, Metrics& metrics);

/// The ids that end a completion: the config's, generation_config.json's and the tokenizer's eos,
/// <|im_end|> and <|endoftext|>.
std::vector<int64_t> stop_ids_of(const std::filesystem::path& model,
                                 const model::ModelConfig& config,
                                 const text::Tokenizer& tokenizer);

}  // namespace lockstep::grpo
