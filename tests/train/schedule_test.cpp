// SPDX-License-Identifier: Apache-2.0
#include "train/schedule.h"

#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/json.h"
#include "tests/support/expect_error.h"
#include "tests/support/json_lines.h"
#include "tests/support/source_dir.h"

namespace lockstep::train {
namespace {

/// The type of such a name.
ScheduleType type_of(const std::string& name) {
  for (const auto& entry : enum_names(ScheduleType()))
    if (entry.name == name) return entry.value;
  ADD_FAILURE() << name;
  return ScheduleType::kConstant;
}

Schedule schedule(ScheduleType type,
                  int64_t warmup_steps,
                  int64_t num_steps,
                  Json keywords = {},
                  double peak = 1) {
  ScheduleOptions options;
  options.lr_scheduler_type = type;
  options.lr_scheduler_kwargs = std::move(keywords);
  options.warmup_steps = warmup_steps;
  return Schedule(options, peak, num_steps);
}

/// What tools/golden/schedules.py wrote of transformers, which has every type.
TEST(Schedule, EqualsTransformers) {
  std::map<std::string, int> cases;
  for_each_json_line(
      testing::source_dir() / "tests/data/schedules/transformers.jsonl",
      [&](int64_t line, const Json& row) {
        const auto type = row["type"].get<std::string>();
        const double peak = row["peak"].get<double>();
        ++cases[type];
        ScheduleOptions options;
        options.lr_scheduler_type = type_of(type);
        options.lr_scheduler_kwargs = row["kwargs"];
        options.warmup_steps = row["warmup"].get<int64_t>();
        Schedule made(options, peak, row["steps"].get<int64_t>(), row.value("mode", "") == "max");
        for (size_t i = 0; i < row["rates"].size(); ++i) {
          if (row.contains("metrics")) {
            made.observe(row["metrics"][i].get<double>());
            // It goes on from what a checkpoint keeps of it.
            const Json state = parse_json(dump_json(made.state()), "state");
            made = Schedule(options, peak, row["steps"].get<int64_t>(), row["mode"] == "max");
            made.load_state(state);
          }
          EXPECT_NEAR(made.rate(static_cast<int64_t>(i)), row["rates"][i].get<double>(),
                      1e-12 * peak)
              << "line " << line << ": " << type << " at step " << i;
        }
      });
  for (const auto& entry : enum_names(ScheduleType()))
    EXPECT_GE(cases[std::string(entry.name)], 8) << entry.name;
}

TEST(Schedule, AMetricThatIsToBeGreatDecidesTheMode) {
  const Json keywords{{"patience", 0}, {"factor", 0.5}};
  for (const bool greater : {false, true}) {
    ScheduleOptions options;
    options.lr_scheduler_type = ScheduleType::kReduceOnPlateau;
    options.lr_scheduler_kwargs = keywords;
    Schedule made(options, 1, 10, greater), named = made;
    options.lr_scheduler_kwargs["mode"] = "min";
    named = Schedule(options, 1, 10, greater);
    for (const double metric : {1.0, 2.0}) {
      made.observe(metric);
      named.observe(metric);
    }
    EXPECT_EQ(made.rate(3), greater ? 1 : 0.5);
    EXPECT_EQ(named.rate(3), 0.5);
  }
}

TEST(Schedule, ConstantHasNoWarmup) {
  for (const int64_t step : {0, 1, 50, 99, 150})
    EXPECT_EQ(schedule(ScheduleType::kConstant, 10, 100).factor(step), 1);
}

TEST(Schedule, WarmupIsLinearFromZero) {
  for (const auto type :
       {ScheduleType::kConstantWithWarmup, ScheduleType::kLinear, ScheduleType::kCosine}) {
    for (const int64_t step : {0, 1, 5, 9})
      EXPECT_DOUBLE_EQ(schedule(type, 10, 100).factor(step), static_cast<double>(step) / 10);
    EXPECT_DOUBLE_EQ(schedule(type, 10, 100).factor(10), 1);
    EXPECT_DOUBLE_EQ(schedule(type, 0, 100).factor(0), 1);
  }
}

TEST(Schedule, KnownPoints) {
  const Schedule linear = schedule(ScheduleType::kLinear, 10, 100),
                 cosine = schedule(ScheduleType::kCosine, 10, 100, {}, 2e-6);
  EXPECT_DOUBLE_EQ(linear.factor(55), 0.5);
  EXPECT_DOUBLE_EQ(linear.factor(100), 0);
  EXPECT_EQ(linear.factor(130), 0);
  EXPECT_NEAR(cosine.rate(40), 1.5e-6, 1e-21);
  EXPECT_NEAR(cosine.rate(55), 1e-6, 1e-21);
  EXPECT_NEAR(cosine.rate(100), 0, 1e-21);
}

TEST(Schedule, DoesNotGoBelowTheFloorAfterWarmup) {
  ScheduleOptions options{
      .lr_scheduler_type = ScheduleType::kCosine, .warmup_steps = 10, .min_learning_rate = 0.2};
  EXPECT_DOUBLE_EQ(Schedule(options, 2, 100).rate(100), 0.2);
  EXPECT_DOUBLE_EQ(Schedule(options, 2, 100).rate(10), 2);
  EXPECT_DOUBLE_EQ(Schedule(options, 2, 100).rate(1), 0.2);
  EXPECT_DOUBLE_EQ(Schedule(options, 0, 100).rate(50), 0);
  options.lr_scheduler_type = ScheduleType::kLinear;
  EXPECT_DOUBLE_EQ(Schedule(options, 2, 100).factor(55), 0.55);
}

TEST(Schedule, RefusesNumbersThatItDoesNotHave) {
  const auto refuse = [](ScheduleType type, const Json& keywords, const char* words) {
    EXPECT_ERROR(schedule(type, 2, 10, keywords), ConfigError, "bad-flag", words);
    EXPECT_ERROR(schedule(type, 2, 10, keywords), ConfigError, "bad-flag", "lr_scheduler_kwargs");
  };
  refuse(ScheduleType::kLinear, {{"num_cycles", 1}}, "expected no key for linear, got num_cycles");
  refuse(ScheduleType::kCosine, {{"power", 2}}, "expected num_cycles for cosine, got power");
  refuse(ScheduleType::kCosine, {{"num_cycles", "many"}}, "a positive number");
  refuse(ScheduleType::kCosineWithMinLr, {}, "either min_lr or min_lr_rate");
  refuse(ScheduleType::kCosineWithMinLr, {{"min_lr", 0.1}, {"min_lr_rate", 0.1}}, "got both");
  refuse(ScheduleType::kPolynomial, {{"lr_end", -1}}, "lr_end: expected a number of at least 0");
  refuse(ScheduleType::kInverseSqrt, {{"timescale", 0}}, "timescale: expected a positive number");
  refuse(ScheduleType::kCosineWarmupWithMinLr, {}, "for cosine_warmup_with_min_lr, got neither");
  refuse(ScheduleType::kReduceOnPlateau, {{"factor", 1}}, "factor: expected");
  refuse(ScheduleType::kReduceOnPlateau, {{"warmup", 1}}, "got warmup");
  refuse(ScheduleType::kGreedy, {{"mode", "least"}}, "mode: expected max or min");
  refuse(ScheduleType::kWarmupStableDecay, {}, "expected num_decay_steps");
  refuse(ScheduleType::kWarmupStableDecay, {{"num_decay_steps", 2}, {"decay_type", "exp"}},
         "decay_type: expected linear, cosine or 1-sqrt");
  EXPECT_EQ(schedule(ScheduleType::kCosine, 0, 10, Json{{"num_cycles", nullptr}}).factor(0), 1);
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
