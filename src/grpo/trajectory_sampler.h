// Samples completions in several turns, round by round.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "grpo/rollout_client.h"
#include "grpo/round_part.h"
#include "grpo/trajectory.h"

namespace lockstep::grpo {

/// Samples trajectories in rounds: in each, the next turn of all that are not over; then those who
/// answer the model work on all of them at once. The first round samples groups as completions of
/// one turn are sampled, with the same random numbers. Not thread-safe.
class TrajectorySampler {
 public:
  /// What it works with, all of which must outlive it.
  struct Parts {
    const agent::AgentOptions& options;
    agent::TurnScheduler& scheduler;
    const text::ChatEncoder& encoder;
    RolloutClient& rollout;
    /// Those of a turn, whose length is at most theirs.
    rollout::RequestSettings settings;
  };
  explicit TrajectorySampler(const Parts& parts);

  /// The most tokens of a completion with all that comes between its turns, behind a prompt.
  int64_t most_tokens(int64_t prompt_tokens) const;

  /// Which weights and draw, as of GroupSampler::Draw.
  struct Draw {
    int64_t group_size = 1;
    int64_t weight_version = 0;
    uint64_t number = 0;
    RoundPart part = {};
    const RolloutClient::Progress& progress;
  };
  /// Told of each trajectory that is over: its place among those of the part.
  using Done = std::function<void(size_t place, const GrowingTrajectory& trajectory)>;
  /// `group_size` trajectories of each prompt of a round that is in the draw's part, group by
  /// group. Throws what RolloutClient::generate and TurnScheduler throw.
  std::vector<GrowingTrajectory> sample(const std::vector<const Prompt*>& round,
                                        const Draw& draw,
                                        const Done& done) const;

 private:
  class Rounds;

  Parts parts_;
  TurnLimits limits_;
};

}  // namespace lockstep::grpo
