// SPDX-License-Identifier: Apache-2.0
#include "grpo/group_rewards.h"

#include <fmt/format.h>

namespace lockstep::grpo {

JudgedGroups judged(SampledGroups groups, RoundRewards& rewards) {
  if (!rewards.has_begun()) {
    rewards.begin(groups.prompts, groups.group_size);
    for (size_t i = 0; i < groups.experiences.size(); ++i) {
      const auto ids = groups.token_ids(i);
      RoundRewards::Completed completed{.text = groups.texts[i],
                                        .token_ids = {ids.begin(), ids.end()},
                                        .finish_reason = finish_reason(groups.experiences[i]),
                                        .record = {}};
      if (const TurnRecord* const record = groups.record_of(i)) {
        completed.text = record->last_text;
        completed.record = *record;
      }
      rewards.add(i, std::move(completed));
    }
  }
  return {std::move(groups), rewards.finish()};
}

void add_function_metrics(const reward::Rewarder& rewarder,
                          std::span<const reward::Values> values,
                          const reward::Notes& notes,
                          const std::string& prefix,
                          Metrics& metrics) {
  for (const auto& [name, numbers] : notes.metrics)
    for (const double number : numbers) metrics.add(prefix + name, number);
  for (size_t f = 0; f < rewarder.functions().size(); ++f) {
    const reward::Spread spread = reward::spread_of(values, f);
    const reward::RewardFunction& function = *rewarder.functions()[f];
    if (function.num_failures() && !notes.failures.empty())
      metrics.replace(fmt::format("{}rewards/{}/failures", prefix, function.name()),
                      static_cast<double>(notes.failures[f]));
    if (spread.count == 0) continue;
    // Dashboards know ms-swift's class names; people know the registered ones.
    std::vector<std::string> names{function.class_name()};
    if (function.name() != function.class_name()) names.push_back(function.name());
    for (const std::string& name : names) {
      metrics.add(fmt::format("{}rewards/{}/mean", prefix, name), spread.mean);
      metrics.add(fmt::format("{}rewards/{}/std", prefix, name), spread.deviation);
    }
  }
}

}  // namespace lockstep::grpo
