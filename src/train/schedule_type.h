// The types of learning-rate schedules: transformers' SchedulerType.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "base/options.h"

namespace lockstep::train {

enum class ScheduleType : int {
  kConstant,
  kConstantWithWarmup,
  kLinear,
  kCosine,
  kCosineWithRestarts,
  kCosineWithMinLr,
  kCosineWarmupWithMinLr,
  kPolynomial,
  kInverseSqrt,
  kWarmupStableDecay,
  kReduceOnPlateau,
  kGreedy
};
std::span<const EnumName<ScheduleType>> enum_names(ScheduleType);

/// Whether what evaluations say moves the rate, rather than the number of the step.
inline bool follows_metric(ScheduleType type) {
  return type == ScheduleType::kReduceOnPlateau || type == ScheduleType::kGreedy;
}

/// How a rate rises or falls within a stage.
enum class RampShape : int { kLinear, kCosine, kOneMinusSqrt };

}  // namespace lockstep::train
