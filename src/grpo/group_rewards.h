// Rewards of sampled groups.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "grpo/group_sampler.h"
#include "grpo/metrics.h"
#include "reward/rewarder.h"

namespace lockstep::grpo {

/// [completion][reward function]. What the rewards log besides goes to `notes`.
std::vector<reward::Values> reward_groups(const reward::Rewarder& rewarder,
                                          const SampledGroups& groups,
                                          const reward::RunState& run,
                                          reward::Notes& notes);

/// Adds mean and deviation of each function's values, their names behind `prefix` ("" or "eval_"),
/// and of those in other processes how often they have failed and what they log besides.
void add_function_metrics(const reward::Rewarder& rewarder,
                          std::span<const reward::Values> values,
                          const reward::Notes& notes,
                          const std::string& prefix,
                          Metrics& metrics);

}  // namespace lockstep::grpo
