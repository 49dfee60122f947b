// Turns rewards into advantages.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "grpo/metrics.h"
#include "grpo/objective_options.h"
#include "reward/rewarder.h"

namespace lockstep::grpo {

struct Advantages {
  /// [N] the weighted sums of the rewards, less penalties; 0 where no function had a value.
  std::vector<double> rewards;
  /// [N]
  std::vector<double> advantages;
  double reward_mean = 0;
  /// The mean of the groups' deviations, or the deviation of the batch where it scales.
  double reward_std = 0;
  /// The share of groups whose rewards are all equal.
  double frac_reward_zero_std = 0;
};

/// How rewards become advantages (AdvantageOptions, resolved).
struct AdvantageRule {
  AdvantageEstimator estimator = AdvantageEstimator::kGrpo;
  ScaleRewards scale = ScaleRewards::kGroup;
};
inline AdvantageRule rule_of(const AdvantageOptions& options) {
  return {options.estimator(), options.scale()};
}

/// With R the weighted sum over reward functions less the penalty, and n a group's completions:
///
///   grpo, reinforce_plus_plus: A = R - mean(group);  rloo: n / (n - 1) times that;
///   divided by deviation + 1e-4: of the group's or the batch's R (reinforce_plus_plus: of its A)
///   gdpo: A = z(sum_f weight_f (r_f - mean(group)) / (deviation(group) + 1e-8)),
///         z(x) = (x - mean(batch)) / (deviation(batch) + 1e-8)
///
/// A missing value drops out of the sum. A completion without any value is left out of means and
/// deviations, and its advantage is 0. Shapes: values [N][F]: N = groups * group_size completions,
/// group-major; weights [F]; penalties [N], or empty. Deviations are unbiased (n - 1), as torch's;
/// of one they are 0. Source: arXiv:2402.03300 (grpo), arXiv:2402.14740 (rloo), arXiv:2501.03262
/// (reinforce++), arXiv:2601.05242 (gdpo); ms-swift 4.6 rl_core/advantage.py.
Advantages compute_advantages(std::span<const reward::Values> values,
                              std::span<const double> weights,
                              int64_t group_size,
                              const AdvantageRule& rule,
                              std::span<const double> penalties = {});

/// Whether the completions of one group get advantages that differ: their summed rewards do, or
/// with gdpo, which scales each reward by itself, the sums of what it makes of them.
bool group_differs(std::span<const reward::Values> values,
                   std::span<const double> weights,
                   const AdvantageRule& rule);

/// Adds the metrics of the summed rewards; `prefix` ("" or "eval_") precedes their names.
void add_reward_metrics(const Advantages& advantages, const std::string& prefix, Metrics& metrics);

}  // namespace lockstep::grpo
