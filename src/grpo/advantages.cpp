// SPDX-License-Identifier: Apache-2.0
#include "grpo/advantages.h"

#include <cmath>
#include <numeric>

#include "base/check.h"

namespace lockstep::grpo {
namespace {

double mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// Unbiased standard deviation; 0 for fewer than two values.
double deviation(std::span<const double> values) {
  if (values.size() < 2) return 0;
  const double center = mean(values);
  double sum = 0;
  for (const double value : values) sum += (value - center) * (value - center);
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

double weighted_sum(std::span<const std::optional<double>> values,
                    std::span<const double> weights) {
  double sum = 0;
  for (size_t f = 0; f < values.size(); ++f)
    if (values[f]) sum += weights[f] * *values[f];
  return sum;
}

}  // namespace

Advantages compute_advantages(std::span<const std::vector<std::optional<double>>> values,
                              std::span<const double> weights,
                              int64_t group_size,
                              ScaleRewards scale) {
  const auto size = static_cast<size_t>(group_size);
  LOCKSTEP_CHECK(size && !values.empty() && values.size() % size == 0, "{} rewards in groups of {}",
                 values.size(), size);
  Advantages result;
  for (const auto& row : values) result.rewards.push_back(weighted_sum(row, weights));
  result.reward_mean = mean(result.rewards);
  const double batch_deviation = deviation(result.rewards);
  const double num_groups = static_cast<double>(values.size() / size);
  for (size_t first = 0; first < values.size(); first += size) {
    const std::span<const double> group(result.rewards.data() + first, size);
    const double center = mean(group), group_deviation = deviation(group);
    result.reward_std += group_deviation / num_groups;
    if (group_deviation <= 1e-8) result.frac_reward_zero_std += 1 / num_groups;
    const double denominator = scale == ScaleRewards::kGroup   ? group_deviation + 1e-4
                               : scale == ScaleRewards::kBatch ? batch_deviation + 1e-4
                                                               : 1.0;
    for (const double reward : group) result.advantages.push_back((reward - center) / denominator);
  }
  if (scale == ScaleRewards::kBatch) result.reward_std = batch_deviation;
  return result;
}

void add_reward_metrics(const Advantages& advantages, const std::string& prefix, Metrics& metrics) {
  metrics.add(prefix + "reward", advantages.reward_mean);
  metrics.add(prefix + "reward_std", advantages.reward_std);
  metrics.add(prefix + "frac_reward_zero_std", advantages.frac_reward_zero_std);
}

}  // namespace lockstep::grpo
