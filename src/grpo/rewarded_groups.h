// Groups of completions with their rewards, whole or group by group.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "grpo/advantages.h"
#include "grpo/group_sampler.h"
#include "reward/rewarder.h"

namespace lockstep::grpo {

/// What a rank has sampled of a round, with its rewards.
struct JudgedGroups {
  SampledGroups groups;
  RoundRewards::Judgement judgement;
};

/// A round of sampling with its rewards and advantages.
struct RewardedGroups {
  SampledGroups groups;
  std::vector<reward::Values> values;
  reward::Notes notes;
  Advantages advantages;
};

/// Puts the parts of all ranks, by rank, together to the round that one rank would have made.
/// Without advantages.
RewardedGroups join_parts(std::vector<JudgedGroups> parts);

/// The groups of a round that one part of it has.
SampledGroups part_of_round(const RoundPart& part, SampledGroups round);

/// Moves group `index` out of a round, without advantages and without the notes that are metrics of
/// the whole round.
RewardedGroups take_group(RewardedGroups& round, size_t index);
/// Appends groups of the same size, without advantages.
void append_groups(RewardedGroups& to, RewardedGroups&& more);

/// Gathers the groups of a generation batch that differ in reward, for dynamic sampling (DAPO).
///
/// A group whose rewards are all equal has no advantages, so it is set aside; what is more than a
/// batch takes stays for the next one. With gdpo, which looks at each reward alone, a group differs
/// where it gets advantages: sums that are equal may hide rewards that are not. Source:
/// arXiv:2503.14476. Not thread-safe.
class GroupPool {
 public:
  /// `wanted`: the groups of a batch.
  GroupPool(int64_t wanted, int64_t group_size) : wanted_(wanted), kept_(empty(group_size)) {}

  /// Takes a round in, group by group.
  void add(RewardedGroups round, std::span<const double> weights, const AdvantageRule& rule);
  /// How many groups that differ are missing for a batch.
  int64_t missing() const;
  /// How many prompts to sample next: what is missing, as many times as groups were sampled for one
  /// that differed since the last take(), but no more than a batch.
  int64_t next_draw() const;
  /// A batch: the groups that differ in the order in which they came, then, if they are too few,
  /// the last of the others.
  RewardedGroups take();

  /// How many groups were taken in since the last take(), and how many of these differ.
  int64_t sampled() const { return sampled_; }
  int64_t differing() const { return differing_; }
  /// What is left for the next batch.
  const RewardedGroups& kept() const { return kept_; }
  /// Goes on with what kept() was.
  void restore(RewardedGroups kept) { kept_ = std::move(kept); }

 private:
  static RewardedGroups empty(int64_t group_size);

  int64_t wanted_;
  RewardedGroups kept_;
  /// Those of the last rounds whose rewards are equal, at most a batch of them.
  std::vector<RewardedGroups> equal_;
  int64_t sampled_ = 0, differing_ = 0;
};

}  // namespace lockstep::grpo
