// Rewards: what a completion is worth.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"
#include "base/options.h"

namespace lockstep::reward {

/// One completion, as rewards see it.
struct RewardInput {
  /// Response prefix + decoded completion without its stop token.
  std::string_view completion;
  /// All sampled tokens, the stop token included; unset: only the text is known.
  std::optional<std::span<const int64_t>> token_ids;
  /// "stop" or "length".
  std::string_view finish_reason;
  /// The row's other columns (solution, …).
  const Json* columns = nullptr;
  /// The prompt's messages.
  const Json* messages = nullptr;
  /// "file:line" of the row, for errors.
  std::string_view where;
};

/// A reward function. Threads: score() is safe from several threads.
class RewardFunction {
 public:
  virtual ~RewardFunction() = default;
  /// The registered name ("accuracy") and ms-swift's class name ("MathAccuracy"), under both of
  /// which metrics are logged.
  virtual std::string_view name() const = 0;
  virtual std::string_view class_name() const = 0;
  /// The column without which it has nothing to compare with; "": none.
  virtual std::string_view needed_column() const { return ""; }
  /// Throws FormatError "bad-row" at `where` for a row whose columns score() could not use: rows
  /// are checked before any is sampled.
  virtual void check(const Json& columns, std::string_view where) const;
  /// Whether it makes anything of what a row gives it to compare with. Otherwise the row is no
  /// error, but hardly any completion can satisfy it.
  virtual bool can_read(const Json& columns) const;
  /// One value for each input; nullopt leaves the function out of that completion's sum.
  /// Throws FormatError "bad-row" where a column that it needs is missing or of another type.
  virtual std::vector<std::optional<double>> score(std::span<const RewardInput> inputs) const = 0;
};

/// Which rewards there are, and what they are told.
struct RewardOptions {
  std::vector<std::string> reward_funcs;
  std::vector<double> reward_weights;
  std::optional<int64_t> soft_max_length, soft_cache_length;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("reward_funcs", reward_funcs, "Rewards: accuracy, format, soft_overlong.");
    visit("reward_weights", reward_weights, "One weight a reward; unset: ones.");
    visit("soft_max_length", soft_max_length,
          "soft_overlong: length limit; unset: max_completion_length.", Range::at_least(1));
    visit("soft_cache_length", soft_cache_length,
          "soft_overlong: where the penalty begins, before the limit.", Range::at_least(1));
  }
  /// Throws ConfigError naming the flag.
  void validate() const;
};

/// Makes a built-in reward: accuracy, format, soft_overlong. `max_completion_length` is the longest
/// completion, in tokens. Throws ConfigError "unknown-reward" naming the known ones, "bad-config".
std::unique_ptr<RewardFunction> make_reward(std::string_view name,
                                            const RewardOptions& options,
                                            int64_t max_completion_length);

}  // namespace lockstep::reward
