// SPDX-License-Identifier: Apache-2.0
#include "grpo/rewarder.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace lockstep::grpo {

Rewarder::Rewarder(const GrpoOptions& options) : weights_(options.reward_weights) {
  for (const std::string& name : options.reward_funcs)
    functions_.push_back(
        reward::make_reward(name, {.soft_max_length = options.soft_max_length,
                                   .soft_cache_length = options.soft_cache_length,
                                   .max_completion_length = options.max_completion_length}));
  if (weights_.empty()) weights_.assign(functions_.size(), 1.0);
}

void Rewarder::check(const text::Row& row) const {
  for (const auto& function : functions_) {
    if (const std::string column(function->needed_column()); !column.empty())
      text::require_column(row, column, fmt::format("the reward {}", function->name()));
    function->check(row.columns, row.where);
  }
}

RewardValues Rewarder::score(const SampledGroups& groups) const {
  std::vector<reward::RewardInput> inputs;
  for (size_t i = 0; i < groups.experiences.size(); ++i) {
    const Prompt& prompt = groups.prompt_of(i);
    inputs.push_back({.completion = groups.texts[i],
                      .token_ids = groups.token_ids(i),
                      .finish_reason = finish_reason(groups.experiences[i]),
                      .columns = &prompt.row->columns,
                      .messages = &prompt.messages,
                      .where = prompt.row->where});
  }
  RewardValues values(inputs.size());
  for (const auto& function : functions_) {
    const auto column = function->score(inputs);
    for (size_t i = 0; i < values.size(); ++i) values[i].push_back(column[i]);
  }
  return values;
}

void Rewarder::add_metrics(const RewardValues& values,
                           const std::string& prefix,
                           Metrics& metrics) const {
  for (size_t f = 0; f < functions_.size(); ++f) {
    double sum = 0, count = 0, squares = 0;
    for (const auto& row : values)
      if (row[f]) {
        sum += *row[f];
        ++count;
      }
    if (count == 0) continue;
    const double mean = sum / count;
    for (const auto& row : values)
      if (row[f]) squares += (*row[f] - mean) * (*row[f] - mean);
    const double deviation = std::sqrt(squares / std::max(1.0, count - 1));
    // Dashboards know ms-swift's class names; people know the registered ones.
    for (const std::string_view name : {functions_[f]->class_name(), functions_[f]->name()}) {
      metrics.add(fmt::format("{}rewards/{}/mean", prefix, name), mean);
      metrics.add(fmt::format("{}rewards/{}/std", prefix, name), deviation);
    }
  }
}

}  // namespace lockstep::grpo
