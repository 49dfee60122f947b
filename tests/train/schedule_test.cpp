// SPDX-License-Identifier: Apache-2.0
#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <gtest/gtest.h>

namespace lockstep::train {
namespace {

constexpr double kPi = std::numbers::pi;

TEST(Schedule, ConstantHasNoWarmup) {
  for (const int64_t step : {0, 1, 50, 99, 150})
    EXPECT_EQ(schedule_factor(ScheduleType::kConstant, step, 10, 100), 1);
}

TEST(Schedule, WarmupIsLinearFromZero) {
  for (const auto type :
       {ScheduleType::kConstantWithWarmup, ScheduleType::kLinear, ScheduleType::kCosine}) {
    for (const int64_t step : {0, 1, 5, 9})
      EXPECT_DOUBLE_EQ(schedule_factor(type, step, 10, 100), static_cast<double>(step) / 10);
    EXPECT_DOUBLE_EQ(schedule_factor(type, 10, 10, 100), 1);
    EXPECT_DOUBLE_EQ(schedule_factor(type, 0, 0, 100), 1);
  }
}

TEST(Schedule, EqualsTransformersFormulas) {
  // transformers 5.23 optimization.py: _get_linear_schedule_with_warmup_lr_lambda and _get_cosine_schedule_with_warmup_lr_lambda.
  for (const int64_t warmup : {0, 7, 30}) {
    for (const int64_t total : {30, 100, 1000}) {
      for (int64_t step = warmup; step <= total; step += 3) {
        const double left = static_cast<double>(total - step) /
                            static_cast<double>(std::max<int64_t>(1, total - warmup));
        const double progress = static_cast<double>(step - warmup) /
                                static_cast<double>(std::max<int64_t>(1, total - warmup));
        EXPECT_EQ(schedule_factor(ScheduleType::kConstantWithWarmup, step, warmup, total), 1);
        EXPECT_DOUBLE_EQ(schedule_factor(ScheduleType::kLinear, step, warmup, total),
                         std::max(0.0, left));
        EXPECT_DOUBLE_EQ(schedule_factor(ScheduleType::kCosine, step, warmup, total),
                         std::max(0.0, 0.5 * (1 + std::cos(kPi * 0.5 * 2 * progress))));
      }
    }
  }
}

TEST(Schedule, KnownPoints) {
  EXPECT_DOUBLE_EQ(schedule_factor(ScheduleType::kLinear, 55, 10, 100), 0.5);
  EXPECT_DOUBLE_EQ(schedule_factor(ScheduleType::kLinear, 100, 10, 100), 0);
  EXPECT_NEAR(schedule_factor(ScheduleType::kCosine, 40, 10, 100), 0.75, 1e-15);
  EXPECT_NEAR(schedule_factor(ScheduleType::kCosine, 55, 10, 100), 0.5, 1e-15);
  EXPECT_NEAR(schedule_factor(ScheduleType::kCosine, 100, 10, 100), 0, 1e-15);
  EXPECT_EQ(schedule_factor(ScheduleType::kLinear, 130, 10, 100), 0);
}

TEST(Schedule, DoesNotGoBelowTheFloorAfterWarmup) {
  EXPECT_DOUBLE_EQ(schedule_factor(ScheduleType::kCosine, 100, 10, 100, 0.1), 0.1);
  EXPECT_DOUBLE_EQ(schedule_factor(ScheduleType::kLinear, 55, 10, 100, 0.1), 0.55);
  EXPECT_DOUBLE_EQ(schedule_factor(ScheduleType::kCosine, 10, 10, 100, 0.1), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(ScheduleType::kCosine, 1, 10, 100, 0.3), 0.1);
}

TEST(Schedule, WarmupStepsWinOverTheRatioWhichRoundsUp) {
  EXPECT_EQ(resolve_warmup(0, 0, 100), 0);
  EXPECT_EQ(resolve_warmup(5, 0.5, 100), 5);
  EXPECT_EQ(resolve_warmup(0, 0.05, 100), 5);
  EXPECT_EQ(resolve_warmup(0, 0.05, 101), 6);
  EXPECT_EQ(resolve_warmup(0, 1, 7), 7);
}

}  // namespace
}  // namespace lockstep::train
