// Which checkpoint of a run is the best, by what its evaluations log. No libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/json.h"
#include "grpo/options.h"

namespace lockstep::grpo {

/// Refuses options that could not find a best checkpoint: where one is asked for, checkpoints are
/// saved and held-out rows evaluated at the same steps. Throws ConfigError "bad-flag".
/// Source: transformers 5.23 training_args.py, __post_init__ (the rules of load_best_model_at_end).
void check_best_options(const RunOptions& run, const DataOptions& data);

/// The best checkpoint so far. Only evaluations of steps that are saved are compared, so that there
/// is always a checkpoint of the best one. Not thread-safe.
class BestCheckpoint {
 public:
  /// By --metric_for_best_model, or the loop's own `standard` ("reward") where that is unset.
  BestCheckpoint(const RunOptions& options, const std::string& standard);

  /// Its logged name: "eval_reward".
  const std::string& metric() const { return metric_; }
  bool greater_is_better() const { return greater_is_better_; }
  /// Throws ConfigError "bad-flag" for a metric that no evaluation logs; `logged` are their names.
  void check_metric(std::span<const std::string> logged) const;

  /// Whether an evaluation with this value is better than the best so far; never for a NaN.
  bool is_better(double value) const;
  /// Takes an evaluation's checkpoint if it is the best.
  void compare(int64_t step, double value);

  /// The step of the best one so far; unset before the first.
  std::optional<int64_t> step() const { return step_; }
  double value() const { return value_; }

  /// What a checkpoint keeps of it.
  Json state() const;
  /// Takes up what state() said, unless it was chosen by another metric: false then.
  bool load_state(const Json& state);
  void forget() { step_.reset(); }

 private:
  std::string metric_;
  bool greater_is_better_ = true;
  std::optional<int64_t> step_;
  double value_ = 0;
};

}  // namespace lockstep::grpo
