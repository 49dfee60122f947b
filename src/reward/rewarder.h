// Rewarding: what each completion is worth to each reward function, and in all.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "reward/reward.h"
#include "reward/reward_options.h"
#include "text/row.h"

namespace lockstep::reward {

/// What a completion is worth to each reward function; nullopt: the function has no value for it.
using Values = std::vector<std::optional<double>>;

/// Mean and spread of some numbers.
struct Spread {
  int64_t count = 0;
  double mean = 0;
  /// The unbiased standard deviation (n - 1); 0 for fewer than two numbers.
  double deviation = 0;
};
Spread spread_of(std::span<const double> numbers);
/// The spread of the values that there are at `function`.
Spread spread_of(std::span<const Values> values, size_t function);

/// The reward of a completion. A value that is missing drops out of the sum, and without any it is
/// 0.
///
/// Shapes: one value and one weight a reward function. Source: ms-swift 4.6,
/// rl_core/advantage.py.
double weighted_sum(const Values& values, std::span<const double> weights);

/// The reward functions of a run with their weights. Threads: safe once made.
class Rewarder {
 public:
  /// Throws what RewardOptions::validate and make_reward do.
  Rewarder(const RewardOptions& options, const RewardContext& context);

  /// Throws FormatError "bad-row" for a row that lacks what a function needs.
  void check(const text::Row& row) const;
  /// Warns of rows of which a function can make nothing: how many there are, and which is the
  /// first. `name` is what the log calls the rows.
  void warn_of_unreadable(std::string_view name, std::span<const text::Row* const> rows) const;

  /// [completion][reward function].
  std::vector<Values> score(std::span<const RewardInput> inputs, const RunState& run) const;
  /// The digests of the plugins' files, for args.json.
  Json plugin_digests() const;

  const std::vector<std::unique_ptr<RewardFunction>>& functions() const { return functions_; }
  /// One a function.
  const std::vector<double>& weights() const { return weights_; }

 private:
  void add(std::unique_ptr<RewardFunction> function);

  std::vector<std::unique_ptr<RewardFunction>> functions_;
  std::vector<double> weights_;
  std::vector<std::string> plugin_files_;
};

}  // namespace lockstep::reward
