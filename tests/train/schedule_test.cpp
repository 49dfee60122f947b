// SPDX-License-Identifier: Apache-2.0
#include "train/schedule.h"

#include <vector>

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

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

/// get_scheduler(name, SGD(lr=1.0), num_warmup_steps, num_training_steps, keywords) of transformers
/// 5.23.0, step by step.
const char* const kCases[] = {
    R"(["cosine", 3, 10, {"num_cycles": 1.5}, [0.0, 0.3333333333333333,
       0.6666666666666666, 1.0, 0.6112604669781572, 0.04951556604879048,
       0.18825509907063315, 0.8117449009293667, 0.9504844339512096, 0.38873953302184294,
       0.0]])",
    R"(["cosine_with_restarts", 2, 11, {"num_cycles": 3}, [0.0, 0.5, 1.0, 0.75,
       0.2500000000000001, 1.0, 0.7500000000000002, 0.2499999999999999, 1.0,
       0.7499999999999999, 0.25000000000000033, 0.0]])",
    R"(["cosine_with_restarts", 2, 9, {}, [0.0, 0.5, 1.0, 0.9504844339512095,
       0.8117449009293668, 0.6112604669781572, 0.38873953302184283, 0.18825509907063326,
       0.04951556604879048, 0.0]])",
    R"(["cosine_with_min_lr", 2, 9, {"min_lr_rate": 0.1}, [0.0, 0.5, 1.0,
       0.9554359905560885, 0.8305704108364301, 0.6501344202803414, 0.44986557971965857,
       0.26942958916356996, 0.14456400944391146, 0.1]])",
    R"(["cosine_with_min_lr", 2, 9, {"min_lr": 0.2, "num_cycles": 0.25}, [0.0, 0.5, 1.0,
       0.9899711648727294, 0.9603875471609677, 0.9127325929872121, 0.8493959207434936,
       0.7735534956470234, 0.6890083735825258, 0.6000000000000001]])",
    R"(["polynomial", 2, 9, {}, [0.0, 0.5, 1.0, 0.8571428714285715, 0.7142857428571429,
       0.5714286142857142, 0.42857148571428577, 0.28571435714285714, 0.14285722857142863,
       1e-07]])",
    R"(["polynomial", 2, 9, {"lr_end": 0.1, "power": 2.0}, [0.0, 0.5, 1.0,
       0.7612244897959185, 0.5591836734693878, 0.3938775510204081, 0.26530612244897966,
       0.17346938775510204, 0.11836734693877553, 0.1]])",
    R"(["inverse_sqrt", 3, 9, {}, [0.0, 0.3333333333333333, 0.6666666666666666, 1.0,
       0.8660254037844387, 0.7745966692414834, 0.7071067811865475, 0.6546536707079771,
       0.6123724356957945, 0.5773502691896258]])",
    R"(["inverse_sqrt", 2, 9, {"timescale": 5}, [0.0, 0.5, 1.0, 0.9128709291752769,
       0.8451542547285166, 0.7905694150420948, 0.7453559924999299, 0.7071067811865475,
       0.674199862463242, 0.6454972243679028]])",
    R"(["warmup_stable_decay", 3, 12, {"num_decay_steps": 4}, [0.0, 0.3333333333333333,
       0.6666666666666666, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8535533905932737, 0.5,
       0.14644660940672627, 0.0]])",
    R"(["warmup_stable_decay", 3, 12, {"num_decay_steps": 4, "num_stable_steps": 2,
       "warmup_type": "1-sqrt", "decay_type": "linear", "min_lr_ratio": 0.1}, [0.1,
       0.26515307716504655, 0.48038475772933675, 1.0, 1.0, 1.0, 0.775, 0.55, 0.325, 0.1,
       0.1, 0.1, 0.1]])",
    R"(["warmup_stable_decay", 4, 12, {"num_decay_steps": 5, "warmup_type": "cosine",
       "decay_type": "1-sqrt", "min_lr_ratio": 0.25}, [0.25, 0.35983495705504465, 0.625,
       0.8901650429449552, 1.0, 1.0, 1.0, 1.0, 0.6645898033750316, 0.5256583509747431,
       0.41905249806888745, 0.3291796067500631, 0.25]])",
    R"(["linear", 3, 10, {}, [0.0, 0.3333333333333333, 0.6666666666666666, 1.0,
       0.8571428571428571, 0.7142857142857143, 0.5714285714285714, 0.42857142857142855,
       0.2857142857142857, 0.14285714285714285, 0.0]])",
    R"(["cosine", 3, 10, {}, [0.0, 0.3333333333333333, 0.6666666666666666, 1.0,
       0.9504844339512095, 0.8117449009293668, 0.6112604669781572, 0.38873953302184283,
       0.18825509907063326, 0.04951556604879048, 0.0]])",
    R"(["cosine", 0, 7, {}, [1.0, 0.9504844339512095, 0.8117449009293668,
       0.6112604669781572, 0.38873953302184283, 0.18825509907063326, 0.04951556604879048,
       0.0]])",
    R"(["constant_with_warmup", 3, 10, {}, [0.0, 0.3333333333333333, 0.6666666666666666,
       1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])",
    R"(["constant", 3, 4, {}, [1.0, 1.0, 1.0, 1.0, 1.0]])",
};

TEST(Schedule, EqualsTransformers) {
  for (const char* text : kCases) {
    const Json c = parse_json(text, "case");
    const Schedule made =
        schedule(type_of(c[0].get<std::string>()), c[1].get<int64_t>(), c[2].get<int64_t>(), c[3]);
    int64_t step = 0;
    for (const Json& rate : c[4]) {
      EXPECT_NEAR(made.rate(step), rate.get<double>(), 1e-15) << text << " at step " << step;
      ++step;
    }
  }
}

TEST(Schedule, EveryTypeIsCompared) {
  for (const auto& entry : enum_names(ScheduleType())) {
    bool is_there = false;
    for (const char* text : kCases) is_there |= parse_json(text, "case")[0] == Json(entry.name);
    EXPECT_TRUE(is_there) << entry.name;
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
