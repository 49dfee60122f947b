// Learning-rate schedules, as transformers defines them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/options.h"

namespace lockstep::train {

enum class ScheduleType : int { kConstant, kConstantWithWarmup, kLinear, kCosine };
std::span<const EnumName<ScheduleType>> enum_names(ScheduleType);

struct ScheduleOptions {
  ScheduleType lr_scheduler_type = ScheduleType::kCosine;
  int64_t warmup_steps = 0;
  double warmup_ratio = 0;
  double min_learning_rate = 0;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("lr_scheduler_type", lr_scheduler_type,
          "constant, constant_with_warmup, linear or cosine.");
    visit("warmup_steps", warmup_steps, "Steps of linear warm-up.", Range::at_least(0));
    visit("warmup_ratio", warmup_ratio, "Warm-up as a share of all steps.", Range::between(0, 1));
    visit("min_learning_rate", min_learning_rate, "The schedule does not go below this.",
          Range::at_least(0));
  }
};

/// The factor on the peak learning rate at `step` (0 for the first) of `num_steps`, after
/// `warmup_steps` of linear warm-up.
///
/// `floor` is the least factor after warm-up (Megatron's min_lr over the peak); 0 as in
/// transformers. Source: transformers 5.23 optimization.py (half a cosine; linear to zero).
double schedule_factor(
    ScheduleType type, int64_t step, int64_t warmup_steps, int64_t num_steps, double floor = 0);

/// ceil(ratio * num_steps), or `warmup_steps` where that is given. Source: transformers
/// TrainingArguments.get_warmup_steps.
int64_t resolve_warmup(int64_t warmup_steps, double warmup_ratio, int64_t num_steps);

}  // namespace lockstep::train
