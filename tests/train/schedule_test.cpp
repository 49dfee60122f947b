// SPDX-License-Identifier: Apache-2.0
#include "train/schedule.h"

#include <vector>

#include <gtest/gtest.h>

namespace lockstep::train {
namespace {

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

TEST(Schedule, EqualsTransformers) {
  // get_scheduler(name, SGD(lr=1.0), num_warmup_steps, num_training_steps) of transformers 5.23.0,
  // step by step.
  struct Case {
    ScheduleType type;
    int64_t warmup, total;
    std::vector<double> rates;
  };
  const std::vector<Case> cases = {
      {ScheduleType::kLinear,
       3,
       10,
       {0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 0.8571428571428571, 0.7142857142857143,
        0.5714285714285714, 0.42857142857142855, 0.2857142857142857, 0.14285714285714285, 0.0}},
      {ScheduleType::kCosine,
       3,
       10,
       {0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 0.9504844339512095, 0.8117449009293668,
        0.6112604669781572, 0.38873953302184283, 0.18825509907063326, 0.04951556604879048, 0.0}},
      {ScheduleType::kCosine,
       0,
       7,
       {1.0, 0.9504844339512095, 0.8117449009293668, 0.6112604669781572, 0.38873953302184283,
        0.18825509907063326, 0.04951556604879048, 0.0}},
      {ScheduleType::kConstantWithWarmup,
       3,
       10,
       {0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0}},
      {ScheduleType::kConstant, 3, 4, {1.0, 1.0, 1.0, 1.0, 1.0}},
  };
  for (const Case& c : cases)
    for (size_t step = 0; step < c.rates.size(); ++step)
      EXPECT_NEAR(schedule_factor(c.type, static_cast<int64_t>(step), c.warmup, c.total),
                  c.rates[step], 1e-15)
          << static_cast<int>(c.type) << " at step " << step;
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
