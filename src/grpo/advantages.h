// Turns rewards into advantages.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "grpo/metrics.h"
#include "grpo/options.h"
#include "reward/rewarder.h"

namespace lockstep::grpo {

struct Advantages {
  /// [N] the weighted sums of the rewards.
  std::vector<double> rewards;
  /// [N]
  std::vector<double> advantages;
  double reward_mean = 0;
  /// The mean of the groups' deviations (for group and none), or the deviation of the batch.
  double reward_std = 0;
  /// The share of groups whose rewards are all equal.
  double frac_reward_zero_std = 0;
};

/// The weighted sum over reward functions, less the group's mean, divided by a deviation + 1e-4.
///
/// Shapes: values [N][F]: N = groups * group_size completions, group-major; nullopt drops out of
/// the sum, all nullopt is 0. weights [F]. Deviations are unbiased (n - 1), as torch's; a group of
/// one has deviation 0. Source: arXiv:2402.03300; ms-swift 4.6 rl_core/advantage.py.
Advantages compute_advantages(std::span<const reward::Values> values,
                              std::span<const double> weights,
                              int64_t group_size,
                              ScaleRewards scale);

/// Adds the metrics of the summed rewards; `prefix` ("" or "eval_") precedes their names.
void add_reward_metrics(const Advantages& advantages, const std::string& prefix, Metrics& metrics);

}  // namespace lockstep::grpo
