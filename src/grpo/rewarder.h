// Rewarding: what each completion of a group is worth to each reward function.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "grpo/group_sampler.h"
#include "grpo/metrics.h"
#include "reward/reward.h"

namespace lockstep::grpo {

/// [completion][reward function]; nullopt: the function has no value for it.
using RewardValues = std::vector<std::vector<std::optional<double>>>;

/// The reward functions of a run with their weights. Not thread-safe.
class Rewarder {
 public:
  /// Throws ConfigError "unknown-reward".
  explicit Rewarder(const GrpoOptions& options);

  /// Throws FormatError "bad-row" for a row that lacks what a function needs.
  void check(const text::Row& row) const;
  /// The values of all completions.
  RewardValues score(const SampledGroups& groups) const;

  const std::vector<std::unique_ptr<reward::RewardFunction>>& functions() const {
    return functions_;
  }
  /// One a function.
  const std::vector<double>& weights() const { return weights_; }

  /// Adds mean and deviation of each function's values, their names behind `prefix` ("" or
  /// "eval_").
  void add_metrics(const RewardValues& values, const std::string& prefix, Metrics& metrics) const;

 private:
  std::vector<std::unique_ptr<reward::RewardFunction>> functions_;
  std::vector<double> weights_;
};

}  // namespace lockstep::grpo
