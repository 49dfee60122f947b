// Learning-rate schedules, as transformers defines them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/json.h"
#include "base/options.h"
#include "train/adaptive_rate.h"
#include "train/schedule_type.h"

namespace lockstep::train {

struct ScheduleOptions {
  ScheduleType lr_scheduler_type = ScheduleType::kCosine;
  Json lr_scheduler_kwargs;
  int64_t warmup_steps = 0;
  double warmup_ratio = 0;
  double min_learning_rate = 0;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("lr_scheduler_type", lr_scheduler_type, "How the learning rate goes down.");
    visit("lr_scheduler_kwargs", lr_scheduler_kwargs,
          "The schedule's own numbers, as in transformers: num_cycles (cosine types), min_lr or "
          "min_lr_rate, lr_end, power, timescale, num_decay_steps, num_stable_steps, warmup_type, "
          "decay_type, min_lr_ratio; docs/training.md has them all.");
    visit("warmup_steps", warmup_steps, "Steps of linear warm-up.", Range::at_least(0));
    visit("warmup_ratio", warmup_ratio, "Warm-up as a share of all steps.", Range::between(0, 1));
    visit("min_learning_rate", min_learning_rate,
          "A linear or cosine schedule does not go below this.", Range::at_least(0));
  }
};

/// The learning rate of every step of a run. Source: transformers 5.23 optimization.py; the floor
/// is Megatron's min_lr.
class Schedule {
 public:
  /// `peak` is the rate after warm-up, `num_steps` the length of the run. Throws ConfigError
  /// "bad-flag" naming --lr_scheduler_kwargs for a number that the type does not know, needs but
  /// does not have, or cannot use.
  /// `greater_is_better` is said of the metric that a schedule may follow.
  Schedule(const ScheduleOptions& options,
           double peak,
           int64_t num_steps,
           bool greater_is_better = false);

  /// The learning rate of `step`; the first step is 0.
  double rate(int64_t step) const { return adaptive_ ? adaptive_->rate() : peak_ * factor(step); }
  /// The same as a share of the peak.
  double factor(int64_t step) const;

  /// Takes the metric of an evaluation, where it follows one.
  void observe(double metric) {
    if (adaptive_) adaptive_->observe(metric);
  }
  /// What a checkpoint keeps; null where the step says all.
  Json state() const { return adaptive_ ? adaptive_->state() : Json(); }
  /// Takes up what state() was.
  void load_state(const Json& state) {
    if (adaptive_) adaptive_->load_state(state);
  }

 private:
  void read_cycles(const ScheduleKeywords& keywords, double standard);
  void read_stages(const ScheduleKeywords& keywords);
  double decay(int64_t step) const;
  double warmed_up(int64_t step) const;
  double staged(int64_t step) const;

  ScheduleType type_;
  double peak_;
  int64_t num_steps_, warmup_steps_;
  /// The share of the peak at which the schedule ends.
  double floor_ = 0;
  double num_cycles_ = 0.5, power_ = 1, timescale_ = 1;
  int64_t stable_steps_ = 0, decay_steps_ = 0;
  /// kCosineWarmupWithMinLr: where warm-up begins.
  std::optional<double> warmup_begin_;
  std::optional<AdaptiveRate> adaptive_;
  RampShape warmup_shape_ = RampShape::kLinear, decay_shape_ = RampShape::kCosine;
};

/// The number of warm-up steps: ceil(ratio * num_steps), or `warmup_steps` if that is given.
/// Source: transformers TrainingArguments.get_warmup_steps.
int64_t resolve_warmup(int64_t warmup_steps, double warmup_ratio, int64_t num_steps);

}  // namespace lockstep::train
