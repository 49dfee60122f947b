// SPDX-License-Identifier: Apache-2.0
#include "grpo/advantages.h"

#include <algorithm>

#include "base/check.h"

namespace lockstep::grpo {
namespace {

using reward::Spread;
using reward::spread_of;

/// Some numbers of a batch, those that count.
struct Column {
  std::vector<double> numbers;
  std::vector<bool> counts;

  /// The spread over [first, first + size).
  Spread spread(size_t first, size_t size) const {
    std::vector<double> counted;
    for (size_t i = first; i < first + size; ++i)
      if (counts[i]) counted.push_back(numbers[i]);
    return spread_of(counted);
  }
  Spread spread() const { return spread(0, numbers.size()); }
};

/// Replaces each group's numbers by map(number, spread of the group); what does not count gets 0.
template <class Map>
void map_groups(Column& column, size_t group_size, Map&& map) {
  for (size_t first = 0; first < column.numbers.size(); first += group_size) {
    const Spread spread = column.spread(first, group_size);
    for (size_t i = first; i < first + group_size; ++i)
      column.numbers[i] = column.counts[i] ? map(column.numbers[i], spread) : 0;
  }
}

/// Which completions have a value at all.
std::vector<bool> counted(std::span<const reward::Values> values) {
  std::vector<bool> counts;
  for (const reward::Values& row : values)
    counts.push_back(
        std::any_of(row.begin(), row.end(), [](const auto& value) { return !!value; }));
  return counts;
}

/// Beside the deviations of gdpo.
constexpr double kGdpoLeast = 1e-8;

/// The weighted sums of each reward's differences over its group's deviation.
Column gdpo_sums(std::span<const reward::Values> values,
                 std::span<const double> weights,
                 size_t group_size) {
  Column sums{std::vector<double>(values.size()), counted(values)};
  for (size_t f = 0; f < weights.size(); ++f) {
    Column own{std::vector<double>(values.size()), std::vector<bool>(values.size())};
    for (size_t i = 0; i < values.size(); ++i) {
      own.counts[i] = values[i][f].has_value();
      own.numbers[i] = values[i][f].value_or(0);
    }
    map_groups(own, group_size, [&](double number, const Spread& spread) {
      return (number - spread.mean) / (spread.deviation + kGdpoLeast);
    });
    for (size_t i = 0; i < values.size(); ++i) sums.numbers[i] += weights[f] * own.numbers[i];
  }
  return sums;
}

/// Scaled over the whole batch.
Column over_batch(Column sums) {
  map_groups(sums, sums.numbers.size(), [&](double number, const Spread& batch) {
    return (number - batch.mean) / (batch.deviation + kGdpoLeast);
  });
  return sums;
}

/// The differences to the groups' means, scaled.
Column scaled_differences(Column rewards, size_t group_size, const AdvantageRule& rule) {
  constexpr double kLeast = 1e-4;
  const Spread batch = rewards.spread();
  const bool by_group = rule.scale == ScaleRewards::kGroup,
             of_differences = rule.estimator == AdvantageEstimator::kReinforcePlusPlus;
  map_groups(rewards, group_size, [&](double number, const Spread& group) {
    const double n = static_cast<double>(group.count);
    const double factor = rule.estimator == AdvantageEstimator::kRloo && n > 1 ? n / (n - 1) : 1;
    // A group's differences have the deviation of its rewards.
    return factor * (number - group.mean) / (by_group ? group.deviation + kLeast : 1);
  });
  if (rule.scale != ScaleRewards::kBatch) return rewards;
  const double deviation = of_differences ? rewards.spread().deviation : batch.deviation;
  for (double& number : rewards.numbers) number /= deviation + kLeast;
  return rewards;
}

}  // namespace

Advantages compute_advantages(std::span<const reward::Values> values,
                              std::span<const double> weights,
                              int64_t group_size,
                              const AdvantageRule& rule,
                              std::span<const double> penalties) {
  const auto size = static_cast<size_t>(group_size);
  LOCKSTEP_CHECK(size && !values.empty() && values.size() % size == 0, "{} rewards in groups of {}",
                 values.size(), size);
  Column rewards{{}, counted(values)};
  for (size_t i = 0; i < values.size(); ++i)
    rewards.numbers.push_back(rewards.counts[i] ? reward::weighted_sum(values[i], weights) -
                                                      (penalties.empty() ? 0 : penalties[i])
                                                : 0);
  Advantages result;
  result.rewards = rewards.numbers;
  const Spread batch = rewards.spread();
  result.reward_mean = batch.mean;
  const double num_groups = static_cast<double>(values.size() / size);
  for (size_t first = 0; first < values.size(); first += size) {
    const double deviation = rewards.spread(first, size).deviation;
    result.reward_std += deviation / num_groups;
    if (deviation <= 1e-8) result.frac_reward_zero_std += 1 / num_groups;
  }
  if (rule.scale == ScaleRewards::kBatch) result.reward_std = batch.deviation;
  result.advantages = (rule.estimator == AdvantageEstimator::kGdpo
                           ? over_batch(gdpo_sums(values, weights, size))
                           : scaled_differences(std::move(rewards), size, rule))
                          .numbers;
  return result;
}

bool group_differs(std::span<const reward::Values> values,
                   std::span<const double> weights,
                   const AdvantageRule& rule) {
  const auto size = std::ssize(values);
  if (rule.estimator != AdvantageEstimator::kGdpo)
    return compute_advantages(values, weights, size, rule).frac_reward_zero_std == 0;
  // Where rewards cancel, what kGdpoLeast makes of them in different ways is left.
  constexpr double kRounding = 1e-6;
  return gdpo_sums(values, weights, values.size()).spread().deviation > kRounding;
}

void add_reward_metrics(const Advantages& advantages, const std::string& prefix, Metrics& metrics) {
  metrics.add(prefix + "reward", advantages.reward_mean);
  metrics.add(prefix + "reward_std", advantages.reward_std);
  metrics.add(prefix + "frac_reward_zero_std", advantages.frac_reward_zero_std);
}

}  // namespace lockstep::grpo
