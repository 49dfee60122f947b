// Rewards of sampled groups.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "grpo/metrics.h"
#include "grpo/rewarded_groups.h"
#include "grpo/round_rewards.h"
#include "reward/rewarder.h"

namespace lockstep::grpo {

/// A rank's part of a round with its rewards, for which `rewards` gets the completions that it has
/// not got while they were sampled.
JudgedGroups judged(SampledGroups groups, RoundRewards& rewards);

/// Adds mean and deviation of each function's values, their names behind `prefix` ("" or "eval_"),
/// and of those in other processes how often they have failed and what they log besides.
void add_function_metrics(const reward::Rewarder& rewarder,
                          std::span<const reward::Values> values,
                          const reward::Notes& notes,
                          const std::string& prefix,
                          Metrics& metrics);

}  // namespace lockstep::grpo
