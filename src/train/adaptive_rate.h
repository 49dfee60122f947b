// Learning rates that follow what evaluations say.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

#include "base/json.h"
#include "train/schedule_type.h"

namespace lockstep::train {

class ScheduleKeywords;

/// The rate of reduce_lr_on_plateau, which falls when a metric has not got better for more than
/// `patience` evaluations, and of greedy, which also rises when it has got better as often.
/// Source: torch 2.11 ReduceLROnPlateau; transformers 5.23 optimization.py, GreedyLR. Not
/// thread-safe.
class AdaptiveRate {
 public:
  /// Throws ConfigError "bad-flag" for a number that it cannot use. Where `mode` is not given, the
  /// metric decides: transformers takes min then, whatever the metric is.
  AdaptiveRate(ScheduleType type,
               const ScheduleKeywords& keywords,
               double peak,
               bool greater_is_better);

  double rate() const { return rate_; }
  void observe(double metric);

  Json state() const;
  void load_state(const Json& state);

 private:
  bool is_better(double metric) const;
  double smoothed(double metric);
  void lower();
  void raise();
  void reset();

  bool is_greedy_, is_max_, is_relative_, smooths_;
  double peak_, factor_, threshold_, min_, max_, epsilon_;
  int64_t patience_, cooldown_, warmup_ = 0, window_ = 0, reset_start_ = 0;

  double rate_;
  /// Unset: before the first metric.
  std::optional<double> best_;
  int64_t bad_ = 0, good_ = 0, cooling_ = 0, warming_ = 0, until_reset_ = 0;
  /// The last metrics, where they are smoothed, and their sum as it was added up.
  std::deque<double> recent_;
  double sum_ = 0;
};

}  // namespace lockstep::train
