// SPDX-License-Identifier: Apache-2.0
#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <string>
#include <vector>

#include <fmt/ranges.h>

#include "base/check.h"
#include "train/schedule_keywords.h"

namespace lockstep::train {
namespace {

constexpr const char* kFlag = ScheduleKeywords::kFlag;

double cosine(double turns) { return 0.5 * (1 + std::cos(std::numbers::pi * turns)); }

/// Rises from 0 to 1 as `progress` does.
double ramp(RampShape shape, double progress, double turns) {
  if (shape == RampShape::kLinear) return progress;
  return shape == RampShape::kCosine ? 1 - cosine(turns * progress) : 1 - std::sqrt(1 - progress);
}

double share(int64_t part, int64_t whole) {
  return static_cast<double>(part) / static_cast<double>(std::max<int64_t>(1, whole));
}

}  // namespace

std::span<const EnumName<ScheduleType>> enum_names(ScheduleType) {
  static constexpr EnumName<ScheduleType> kNames[] = {
      {ScheduleType::kConstant, "constant"},
      {ScheduleType::kConstantWithWarmup, "constant_with_warmup"},
      {ScheduleType::kLinear, "linear"},
      {ScheduleType::kCosine, "cosine"},
      {ScheduleType::kCosineWithRestarts, "cosine_with_restarts"},
      {ScheduleType::kCosineWithMinLr, "cosine_with_min_lr"},
      {ScheduleType::kCosineWarmupWithMinLr, "cosine_warmup_with_min_lr"},
      {ScheduleType::kPolynomial, "polynomial"},
      {ScheduleType::kInverseSqrt, "inverse_sqrt"},
      {ScheduleType::kWarmupStableDecay, "warmup_stable_decay"},
      {ScheduleType::kReduceOnPlateau, "reduce_lr_on_plateau"},
      {ScheduleType::kGreedy, "greedy"},
  };
  return kNames;
}

Schedule::Schedule(const ScheduleOptions& options,
                   double peak,
                   int64_t num_steps,
                   bool greater_is_better)
    : type_(options.lr_scheduler_type),
      peak_(peak),
      num_steps_(num_steps),
      warmup_steps_(resolve_warmup(options.warmup_steps, options.warmup_ratio, num_steps)) {
  const ScheduleKeywords keywords(options.lr_scheduler_kwargs);
  const auto of_peak = [&](double rate) { return peak > 0 ? std::min(1.0, rate / peak) : 0; };
  if (type_ == ScheduleType::kLinear || type_ == ScheduleType::kCosine)
    floor_ = of_peak(options.min_learning_rate);
  if (type_ == ScheduleType::kCosine) read_cycles(keywords, 0.5);
  if (type_ == ScheduleType::kCosineWithRestarts) read_cycles(keywords, 1);
  if (type_ == ScheduleType::kCosineWithMinLr || type_ == ScheduleType::kCosineWarmupWithMinLr) {
    read_cycles(keywords, 0.5);
    const auto rate = keywords.number("min_lr", Range::at_least(0)),
               part = keywords.number("min_lr_rate", Range::between(0, 1));
    if (!rate == !part)
      fail<ConfigError>("bad-flag", kFlag, "expected either min_lr or min_lr_rate for {}, got {}",
                        enum_name(type_), rate ? "both" : "neither");
    floor_ = part ? *part : of_peak(*rate);
  }
  if (type_ == ScheduleType::kCosineWarmupWithMinLr)
    warmup_begin_ = keywords.number("warmup_lr_rate", Range::between(0, 1));
  if (type_ == ScheduleType::kPolynomial) {
    floor_ = of_peak(keywords.number("lr_end", Range::at_least(0)).value_or(1e-7));
    power_ = keywords.number("power", Range::above(0)).value_or(1);
  }
  if (type_ == ScheduleType::kInverseSqrt)
    timescale_ = keywords.number("timescale", Range::above(0))
                     .value_or(warmup_steps_ ? static_cast<double>(warmup_steps_) : 10000);
  if (type_ == ScheduleType::kWarmupStableDecay) read_stages(keywords);
  if (follows_metric(type_)) adaptive_.emplace(type_, keywords, peak, greater_is_better);
  keywords.check_all_known(enum_name(type_));
}

void Schedule::read_cycles(const ScheduleKeywords& keywords, double standard) {
  num_cycles_ = keywords.number("num_cycles", Range::above(0)).value_or(standard);
}

void Schedule::read_stages(const ScheduleKeywords& keywords) {
  const auto decay = keywords.count("num_decay_steps"), stable = keywords.count("num_stable_steps");
  if (!decay)
    fail<ConfigError>("bad-flag", kFlag,
                      "expected num_decay_steps for warmup_stable_decay, got none");
  decay_steps_ = *decay;
  stable_steps_ = stable.value_or(num_steps_ - warmup_steps_ - decay_steps_);
  warmup_shape_ = keywords.shape("warmup_type", RampShape::kLinear);
  decay_shape_ = keywords.shape("decay_type", RampShape::kCosine);
  floor_ = keywords.number("min_lr_ratio", Range::between(0, 1)).value_or(0);
  read_cycles(keywords, 0.5);
}

double Schedule::factor(int64_t step) const {
  if (adaptive_) return peak_ > 0 ? adaptive_->rate() / peak_ : 1;
  // transformers' plain `constant` has no warm-up.
  if (type_ == ScheduleType::kConstant) return 1;
  if (type_ == ScheduleType::kWarmupStableDecay) return staged(step);
  if (type_ == ScheduleType::kCosineWarmupWithMinLr) return warmed_up(step);
  if (step < warmup_steps_) return share(step, warmup_steps_);
  if (type_ == ScheduleType::kConstantWithWarmup) return 1;
  if (type_ == ScheduleType::kInverseSqrt)
    return 1 / std::sqrt((static_cast<double>(step - warmup_steps_) + timescale_) / timescale_);
  return floor_ + (1 - floor_) * std::max(0.0, decay(step));
}

/// Falls from 1 to 0 over the steps after warm-up.
double Schedule::decay(int64_t step) const {
  const int64_t span = num_steps_ - warmup_steps_;
  const double progress = share(step - warmup_steps_, span);
  if (type_ == ScheduleType::kLinear) return share(num_steps_ - step, span);
  if (type_ == ScheduleType::kPolynomial)
    return step > num_steps_ ? 0 : std::pow(1 - progress, power_);
  if (type_ == ScheduleType::kCosineWithRestarts)
    return progress >= 1 ? 0 : cosine(std::fmod(num_cycles_ * progress, 1));
  return cosine(num_cycles_ * 2 * progress);
}

/// Begins its warm-up at one step, not at none, or at a share that is given, and is a step ahead of
/// the other cosines.
double Schedule::warmed_up(int64_t step) const {
  if (step < warmup_steps_) {
    if (!warmup_begin_) return share(step + 1, warmup_steps_);
    return *warmup_begin_ + (1 - *warmup_begin_) * share(step, warmup_steps_ - 1);
  }
  const double progress = share(step - warmup_steps_ + 1, num_steps_ - warmup_steps_);
  return std::max(0.0, floor_ + (1 - floor_) * cosine(num_cycles_ * 2 * progress));
}

double Schedule::staged(int64_t step) const {
  const int64_t decay_begin = warmup_steps_ + stable_steps_;
  if (step >= warmup_steps_ && step < decay_begin) return 1;
  if (step >= std::max(warmup_steps_, decay_begin) + decay_steps_) return floor_;
  const double share_left =
      step < warmup_steps_ ? ramp(warmup_shape_, share(step, warmup_steps_), 1)
      : decay_shape_ == RampShape::kOneMinusSqrt
          ? 1 - std::sqrt(share(step - decay_begin, decay_steps_))
          : 1 - ramp(decay_shape_, share(step - decay_begin, decay_steps_), 2 * num_cycles_);
  return std::max(0.0, floor_ + (1 - floor_) * share_left);
}

int64_t resolve_warmup(int64_t warmup_steps, double warmup_ratio, int64_t num_steps) {
  if (warmup_steps > 0) return warmup_steps;
  return static_cast<int64_t>(std::ceil(static_cast<double>(num_steps) * warmup_ratio));
}

}  // namespace lockstep::train
