// SPDX-License-Identifier: Apache-2.0
#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace lockstep::train {

std::span<const EnumName<ScheduleType>> enum_names(ScheduleType) {
  static constexpr EnumName<ScheduleType> kNames[] = {
      {ScheduleType::kConstant, "constant"},
      {ScheduleType::kConstantWithWarmup, "constant_with_warmup"},
      {ScheduleType::kLinear, "linear"},
      {ScheduleType::kCosine, "cosine"},
  };
  return kNames;
}

double schedule_factor(
    ScheduleType type, int64_t step, int64_t warmup_steps, int64_t num_steps, double floor) {
  // transformers' plain `constant` has no warm-up.
  if (type == ScheduleType::kConstant) return 1;
  if (step < warmup_steps)
    return static_cast<double>(step) / static_cast<double>(std::max<int64_t>(1, warmup_steps));
  if (type == ScheduleType::kConstantWithWarmup) return 1;
  const double span = static_cast<double>(std::max<int64_t>(1, num_steps - warmup_steps));
  const double progress = static_cast<double>(step - warmup_steps) / span;
  const double factor = type == ScheduleType::kLinear
                            ? static_cast<double>(num_steps - step) / span
                            : 0.5 * (1 + std::cos(std::numbers::pi * progress));
  return floor + (1 - floor) * std::max(0.0, factor);
}

int64_t resolve_warmup(int64_t warmup_steps, double warmup_ratio, int64_t num_steps) {
  if (warmup_steps > 0) return warmup_steps;
  return static_cast<int64_t>(std::ceil(static_cast<double>(num_steps) * warmup_ratio));
}

}  // namespace lockstep::train
