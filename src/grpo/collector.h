// Collects generation batches: samples prompts under the current weights, and gives the completions
// rewards.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "grpo/batch_plan.h"
#include "grpo/exactness.h"
#include "grpo/group_sampler.h"
#include "grpo/prompts.h"
#include "grpo/rewarded_groups.h"
#include "grpo/rollout_client.h"
#include "grpo/round_rewards.h"
#include "grpo/row_cursor.h"
#include "grpo/sampling_ahead.h"
#include "grpo/sync_probe.h"
#include "grpo/training_run.h"
#include "reward/rewarder.h"

namespace lockstep::grpo {

/// Collects the generation batches of a run, one after another. Each rank samples and rewards its
/// part of a round, and all get the whole one; what it throws all throw.
///
/// Without dynamic sampling a batch is the next rows of the data set. With it, groups whose rewards
/// are equal are replaced by those of further rows, and groups that are too many wait for the next
/// batch. With --async_generate the batch behind the one that is returned is sampled meanwhile.
/// Not thread-safe.
class Collector {
 public:
  /// What it works with, all of which must outlive it.
  struct Parts {
    const GrpoRunOptions& options;
    TrainingRun& run;
    RolloutClient& rollout;
    const GroupSampler& sampler;
    const reward::Rewarder& rewarder;
    const std::vector<Prompt>& prompts;
    const BatchPlan& plan;
    /// Unset where the sampler needs no probe of its weights.
    std::optional<SyncProbe>& probe;
  };
  explicit Collector(const Parts& parts);

  /// The batch of this number, without advantages. Tells the sampler of the current weights first,
  /// if it does not know them.
  RewardedGroups collect(int64_t generation);
  /// Samples and rewards other prompts under the current weights: those of an evaluation.
  RewardedGroups sample_once(const GroupSampler& sampler,
                             const std::vector<const Prompt*>& prompts,
                             int64_t group_size);

  /// Throws what sampling ahead has failed with, if it has.
  void check() { ahead_.check(); }
  /// For how many tokens of a batch layer inputs are kept at most.
  int64_t kept_tokens() const;
  /// Samples the completions of the current weights once more, to find the layer of a difference.
  ExactnessCheck::SampleAgain sample_again();
  /// The weights have changed: what was sampled cannot be sampled again.
  void forget_rounds() { rounds_.clear(); }

  /// Adds what a checkpoint needs to go on with the batch of number `generation`.
  void save(int64_t generation, LoopState& state);
  /// Goes on where save() was. Throws FormatError "bad-resume".
  void restore(const ResumePoint& resume, int64_t generation);
  /// Goes on with the batch of this number, as if nothing but whole batches had been taken.
  void skip_to(int64_t generation) { position_ = generation * parts_.plan.prompts; }

 private:
  /// What it takes to sample a whole round of the current weights again.
  struct Round {
    std::vector<const Prompt*> prompts;
    GroupSampler::Draw draw;
  };

  const GrpoOptions& grpo() const { return parts_.options.grpo; }
  bool has_turns() const { return parts_.options.agent.is_on(); }
  std::vector<const Prompt*> prompts_at(int64_t position, int64_t count) const;
  std::vector<const Prompt*> next_prompts(int64_t count);
  void publish();
  GroupSampler::Draw draw_of(int64_t generation);
  void enter_sampling(const GroupSampler::Draw& draw, size_t prompts);
  SampledGroups sample(const std::vector<const Prompt*>& prompts,
                       const GroupSampler::Draw& draw,
                       RoundRewards& rewards);
  RewardedGroups collect_ahead(int64_t generation, const GroupSampler::Draw& draw);
  void start_ahead(int64_t generation);
  RewardedGroups sample_and_reward(const std::vector<const Prompt*>& prompts,
                                   const GroupSampler::Draw& draw);
  JudgedGroups reward(SampledGroups groups, RoundRewards& rewards);
  reward::RunState state() const { return parts_.plan.state_at(parts_.run.global_step()); }
  RewardedGroups collect_differing(int64_t generation);
  std::vector<Experience> sampled_ahead();
  RoundPart part() const;
  std::vector<train::Sample> sample_round(const Round& round, const train::Sample& first);
  std::shared_ptr<model::LayerInputs> new_store() const;

  Parts parts_;
  RowCursor rows_;
  /// How many rows have been taken.
  int64_t position_ = 0;
  GroupPool pool_;
  /// Whether a batch has had groups of equal rewards.
  bool has_warned_ = false;
  SamplingAhead ahead_;
  std::vector<Round> rounds_;
};

}  // namespace lockstep::grpo
