// SPDX-License-Identifier: Apache-2.0
#include "grpo/advantages.h"

#include "base/check.h"

namespace lockstep::grpo {

using reward::spread_of;

Advantages compute_advantages(std::span<const reward::Values> values,
                              std::span<const double> weights,
                              int64_t group_size,
                              ScaleRewards scale) {
  const auto size = static_cast<size_t>(group_size);
  LOCKSTEP_CHECK(size && !values.empty() && values.size() % size == 0, "{} rewards in groups of {}",
                 values.size(), size);
  Advantages result;
  for (const reward::Values& row : values)
    result.rewards.push_back(reward::weighted_sum(row, weights));
  const reward::Spread batch = spread_of(result.rewards);
  result.reward_mean = batch.mean;
  const double num_groups = static_cast<double>(values.size() / size);
  for (size_t first = 0; first < values.size(); first += size) {
    const std::span<const double> group(result.rewards.data() + first, size);
    const reward::Spread spread = spread_of(group);
    result.reward_std += spread.deviation / num_groups;
    if (spread.deviation <= 1e-8) result.frac_reward_zero_std += 1 / num_groups;
    const double denominator = scale == ScaleRewards::kGroup   ? spread.deviation + 1e-4
                               : scale == ScaleRewards::kBatch ? batch.deviation + 1e-4
                                                               : 1.0;
    for (const double reward : group)
      result.advantages.push_back((reward - spread.mean) / denominator);
  }
  if (scale == ScaleRewards::kBatch) result.reward_std = batch.deviation;
  return result;
}

void add_reward_metrics(const Advantages& advantages, const std::string& prefix, Metrics& metrics) {
  metrics.add(prefix + "reward", advantages.reward_mean);
  metrics.add(prefix + "reward_std", advantages.reward_std);
  metrics.add(prefix + "frac_reward_zero_std", advantages.frac_reward_zero_std);
}

}  // namespace lockstep::grpo
