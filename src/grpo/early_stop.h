// When a run ends before its last step, by what its evaluations log. No libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/json.h"
#include "grpo/options.h"

namespace lockstep::grpo {

/// Refuses what `flag` asks for where no evaluations are made. Throws ConfigError "bad-flag".
void check_evaluated(const char* flag, const RunOptions& run, const DataOptions& data);

/// Refuses --early_stop_interval without evaluations, and --early_stopping_threshold without it.
/// Throws ConfigError "bad-flag".
void check_early_stop_options(const RunOptions& run, const DataOptions& data);

/// Counts the evaluations in a row that are no improvement. Not thread-safe.
/// Source: transformers 5.23 trainer_callback.py, EarlyStoppingCallback. As there, what is compared
/// with is the best value so far, also where that was better by less than the threshold.
class EarlyStop {
 public:
  /// `metric` is its logged name ("eval_reward").
  EarlyStop(const RunOptions& options, const std::string& metric, bool greater_is_better);

  bool is_on() const { return interval_.has_value(); }
  /// Takes the value of an evaluation. One that is no number is no improvement.
  void compare(double value);
  /// Whether --early_stop_interval evaluations in a row were no improvement.
  bool is_reached() const { return interval_ && count_ >= *interval_; }
  /// "eval_reward has been no better than 0.5 for 3 evaluations"
  std::string text() const;

  /// What a checkpoint keeps of it.
  Json state() const;
  /// Takes up what state() said, unless it is of another metric.
  void load_state(const Json& state);

 private:
  std::optional<int64_t> interval_;
  double threshold_;
  std::string metric_;
  bool greater_is_better_;
  std::optional<double> best_;
  int64_t count_ = 0;
};

}  // namespace lockstep::grpo
