// Samples groups of completions for prompts, as experiences without rewards.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "grpo/experience.h"
#include "grpo/metrics.h"
#include "grpo/prompts.h"
#include "grpo/rollout_client.h"
#include "grpo/round_part.h"
#include "grpo/round_rewards.h"
#include "grpo/trajectory_sampler.h"
#include "model/layer_inputs.h"

namespace lockstep::grpo {

/// The result of a round of sampling: `group_size` completions of each prompt, group by group.
struct SampledGroups {
  /// One for each group; they outlive this.
  std::vector<const Prompt*> prompts;
  int64_t group_size = 1;
  /// [prompts * group_size], without advantages.
  std::vector<Experience> experiences;
  /// Their texts as logs see them, and rewards, unless there are records: the prompt's response
  /// prefix, then the completion without the stop token that ended it.
  std::vector<std::string> texts;
  /// One for each completion where they have several turns; else empty.
  std::vector<TurnRecord> records;

  /// The prompt of a completion.
  const Prompt& prompt_of(size_t completion) const {
    return *prompts[completion / static_cast<size_t>(group_size)];
  }
  /// The tokens of a completion, with the stop token, and with what stands between its turns.
  std::span<const int64_t> token_ids(size_t completion) const {
    const train::Sample& sample = experiences[completion].sample;
    return std::span(sample.ids).subspan(static_cast<size_t>(sample.prompt_tokens()));
  }
  const TurnRecord* record_of(size_t completion) const {
    return records.empty() ? nullptr : &records[completion];
  }
};

/// Samples groups of completions. Not thread-safe.
class GroupSampler {
 public:
  /// `encoder` and `rollout` must outlive it. `stop_ids` end a completion, or a turn of it.
  GroupSampler(const GrpoOptions& options,
               const text::ChatEncoder& encoder,
               RolloutClient& rollout,
               std::vector<int64_t> stop_ids,
               const RunContext& context);
  /// From now on completions have turns. Both must outlive this.
  void take_turns(const agent::AgentOptions& options, agent::TurnScheduler& scheduler);

  /// What a round samples, and the keys of its random numbers.
  struct Draw {
    int64_t group_size = 1;
    /// The weights that the sampler must hold.
    int64_t weight_version = 0;
    /// The number of the draw, which tells several draws of one prompt apart.
    uint64_t number = 0;
    /// The groups of the round that are sampled. What they are does not depend on the others being
    /// sampled too.
    RoundPart part = {};
    /// Where what the layers read is kept; null if it is not.
    std::shared_ptr<model::LayerInputs> kept;
    /// Is told how many tokens are sampled, and how many completions are done so far.
    RolloutClient::Progress progress = [](int64_t, int64_t) {};
  };
  /// What it is to be told of the experts of what it samples from now on.
  void record_experts(rollout::RecordExperts what) { settings_.record_experts = what; }
  /// The most tokens of a turn that are sampled.
  int64_t max_new_tokens() const { return settings_.max_new_tokens; }
  /// The most tokens of a completion behind a prompt, with what stands between its turns.
  int64_t most_tokens(int64_t prompt_tokens) const {
    return turns_ ? turns_->most_tokens(prompt_tokens) : settings_.max_new_tokens;
  }
  /// Samples completions of those prompts of a round that are in the draw's part, each of which
  /// `rewards`, if it is there, gets when it is done. Throws what RolloutClient::generate and
  /// RoundRewards::add throw.
  SampledGroups sample(const std::vector<const Prompt*>& round,
                       const Draw& draw,
                       RoundRewards* rewards = nullptr) const;
  /// What sample() returned for these prompts, from the experiences in it, which a checkpoint kept;
  /// records are the caller's.
  SampledGroups restore(std::vector<const Prompt*> prompts,
                        std::vector<Experience> experiences,
                        int64_t group_size) const;

 private:
  std::string text_of(const Prompt& prompt, const rollout::Completion& completion) const;
  void check_experts(const Experience& experience) const;
  SampledGroups sample_trajectories(const std::vector<const Prompt*>& round,
                                    const Draw& draw,
                                    RoundRewards* rewards) const;

  const text::ChatEncoder* encoder_;
  RolloutClient* rollout_;
  rollout::RequestSettings settings_;
  std::optional<TrajectorySampler> turns_;
};

/// Adds the metrics of the completions' lengths; `prefix` ("" or "eval_") precedes their names.
void add_length_metrics(const SampledGroups& groups, const std::string& prefix, Metrics& metrics);

/// The ids that end a completion: the end tokens of config.json, of generation_config.json and of
/// the tokenizer, <|im_end|> and <|endoftext|>. Without a tokenizer (null) those of the two files.
std::vector<int64_t> stop_ids_of(const std::filesystem::path& model,
                                 const model::ModelConfig& config,
                                 const text::Tokenizer* tokenizer);

}  // namespace lockstep::grpo
