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

namespace lockstep::train {
namespace {

constexpr const char* kFlag = "--lr_scheduler_kwargs";

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
      {ScheduleType::kPolynomial, "polynomial"},
      {ScheduleType::kInverseSqrt, "inverse_sqrt"},
      {ScheduleType::kWarmupStableDecay, "warmup_stable_decay"},
  };
  return kNames;
}

/// The dictionary of --lr_scheduler_kwargs. At the end every key in it must have been asked for.
class ScheduleKeywords {
 public:
  explicit ScheduleKeywords(const Json& values) : values_(values) {}

  std::optional<double> number(const char* key, Range range) const {
    const Json* value = find(key);
    if (!value) return {};
    if (!value->is_number() || !range.contains(value->get<double>()))
      bad(key, range.low > 0 || range.low_open ? "a positive number" : "a number of at least 0",
          *value);
    return value->get<double>();
  }
  std::optional<int64_t> count(const char* key) const {
    const Json* value = find(key);
    if (!value) return {};
    if (!value->is_number_integer() || value->get<int64_t>() < 0)
      bad(key, "a whole number of at least 0", *value);
    return value->get<int64_t>();
  }
  RampShape shape(const char* key, RampShape standard) const {
    const Json* value = find(key);
    if (!value) return standard;
    if (*value == Json("linear")) return RampShape::kLinear;
    if (*value == Json("cosine")) return RampShape::kCosine;
    if (*value != Json("1-sqrt")) bad(key, "linear, cosine or 1-sqrt", *value);
    return RampShape::kOneMinusSqrt;
  }

  void check_all_known(std::string_view type) const {
    if (!values_.is_object()) return;
    for (const auto& [key, value] : values_.items())
      if (std::find(asked_.begin(), asked_.end(), key) == asked_.end())
        fail<ConfigError>("bad-flag", kFlag, "expected {} for {}, got {}",
                          asked_.empty() ? "no key" : fmt::format("{}", fmt::join(asked_, ", ")),
                          type, key);
  }

 private:
  const Json* find(const char* key) const {
    asked_.emplace_back(key);
    if (!values_.is_object()) return nullptr;
    const auto found = values_.find(key);
    return found == values_.end() || found->is_null() ? nullptr : &*found;
  }
  [[noreturn]] void bad(const char* key, const char* expected, const Json& value) const {
    fail<ConfigError>("bad-flag", kFlag, "{}: expected {}, got {}", key, expected,
                      dump_json(value));
  }

  const Json& values_;
  mutable std::vector<std::string> asked_;
};

Schedule::Schedule(const ScheduleOptions& options, double peak, int64_t num_steps)
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
  if (type_ == ScheduleType::kCosineWithMinLr) {
    read_cycles(keywords, 0.5);
    const auto rate = keywords.number("min_lr", Range::at_least(0)),
               part = keywords.number("min_lr_rate", Range::between(0, 1));
    if (!rate == !part)
      fail<ConfigError>("bad-flag", kFlag,
                        "expected either min_lr or min_lr_rate for cosine_with_min_lr, got {}",
                        rate ? "both" : "neither");
    floor_ = part ? *part : of_peak(*rate);
  }
  if (type_ == ScheduleType::kPolynomial) {
    floor_ = of_peak(keywords.number("lr_end", Range::at_least(0)).value_or(1e-7));
    power_ = keywords.number("power", Range::above(0)).value_or(1);
  }
  if (type_ == ScheduleType::kInverseSqrt)
    timescale_ = keywords.number("timescale", Range::above(0))
                     .value_or(warmup_steps_ ? static_cast<double>(warmup_steps_) : 10000);
  if (type_ == ScheduleType::kWarmupStableDecay) read_stages(keywords);
  std::string_view name;
  for (const auto& entry : enum_names(type_))
    if (entry.value == type_) name = entry.name;
  keywords.check_all_known(name);
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
  // transformers' plain `constant` has no warm-up.
  if (type_ == ScheduleType::kConstant) return 1;
  if (type_ == ScheduleType::kWarmupStableDecay) return staged(step);
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
