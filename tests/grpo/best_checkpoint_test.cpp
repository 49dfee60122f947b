// SPDX-License-Identifier: Apache-2.0
#include "grpo/best_checkpoint.h"

#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace lockstep::grpo {
namespace {

RunOptions asked_for() {
  RunOptions run;
  run.load_best_model_at_end = true;
  return run;
}

DataOptions held_out() {
  DataOptions data;
  data.split_dataset_ratio = 0.1;
  return data;
}

TEST(BestOptions, AreThoseOfTransformers) {
  const auto refused = [](const RunOptions& run, const DataOptions& data, const char* says) {
    EXPECT_ERROR(check_best_options(run, data), ConfigError, "bad-flag", says);
  };
  RunOptions run = asked_for();
  check_best_options(run, held_out());
  refused(run, {}, "--val_dataset");
  check_best_options({}, {});  // nothing is asked for

  run.eval_strategy = Interval::kEpoch;
  refused(run, held_out(), "--save_strategy steps and --eval_strategy epoch");
  run.save_strategy = SaveStrategy::kEpoch;
  check_best_options(run, held_out());
  run.eval_strategy = Interval::kNo;
  refused(run, held_out(), "--eval_strategy no");
  run.save_strategy = SaveStrategy::kNo;
  refused(run, held_out(), "--save_strategy no and --eval_strategy no");

  run = asked_for();
  run.save_steps = 10;
  run.eval_steps = 5;
  check_best_options(run, held_out());
  run.eval_steps = 4;
  refused(run, held_out(), "a multiple of --eval_steps, got 10 and 4");
  run.eval_steps = 20;
  refused(run, held_out(), "a multiple of --eval_steps, got 10 and 20");
  // With epochs these counts mean nothing.
  run.save_strategy = SaveStrategy::kEpoch;
  check_best_options(run, held_out());
}

TEST(BestOptions, SavingTheBestAloneNeedsEvaluations) {
  RunOptions run;
  run.save_strategy = SaveStrategy::kBest;
  check_best_options(run, held_out());
  EXPECT_EQ(run.evaluation(), Interval::kSteps);
  EXPECT_ERROR(check_best_options(run, {}), ConfigError, "bad-flag", "--save_strategy");
  run.eval_strategy = Interval::kNo;
  EXPECT_ERROR(check_best_options(run, held_out()), ConfigError, "bad-flag", "--eval_strategy no");
  run.eval_strategy = Interval::kEpoch;
  run.load_best_model_at_end = true;
  check_best_options(run, held_out());
}

TEST(BestOptions, EvaluationsFollowTheCheckpoints) {
  RunOptions run;
  EXPECT_EQ(run.evaluation(), Interval::kSteps);
  EXPECT_EQ(run.evaluation_steps(), 500);
  run.save_strategy = SaveStrategy::kEpoch;
  EXPECT_EQ(run.evaluation(), Interval::kEpoch);
  run.save_strategy = SaveStrategy::kNo;
  EXPECT_EQ(run.evaluation(), Interval::kNo);
  run.eval_strategy = Interval::kSteps;
  run.eval_steps = 7;
  EXPECT_EQ(run.evaluation(), Interval::kSteps);
  EXPECT_EQ(run.evaluation_steps(), 7);
}

TEST(BestCheckpoint, TheMetricSaysWhichWayIsBetter) {
  RunOptions run;
  EXPECT_EQ(BestCheckpoint(run, "reward").metric(), "eval_reward");
  EXPECT_TRUE(BestCheckpoint(run, "reward").greater_is_better());
  EXPECT_FALSE(BestCheckpoint(run, "loss").greater_is_better());
  run.metric_for_best_model = "eval_format_loss";
  EXPECT_EQ(BestCheckpoint(run, "reward").metric(), "eval_format_loss");
  EXPECT_FALSE(BestCheckpoint(run, "reward").greater_is_better());
  run.greater_is_better = true;
  EXPECT_TRUE(BestCheckpoint(run, "reward").greater_is_better());
  const std::vector<std::string> logged{"eval_loss"};
  BestCheckpoint({}, "loss").check_metric(logged);
  EXPECT_ERROR(BestCheckpoint(run, "loss").check_metric(logged), ConfigError, "bad-flag",
               "'eval_format_loss' (there are eval_loss)");
}

TEST(BestCheckpoint, TheFirstOfEqualsStays) {
  BestCheckpoint best({}, "reward");
  EXPECT_FALSE(best.step());
  best.compare(1, NAN);
  EXPECT_FALSE(best.step());
  best.compare(2, 0.5);
  best.compare(3, 0.5);
  best.compare(4, NAN);
  best.compare(5, 0.25);
  EXPECT_EQ(best.step(), 2);
  best.compare(6, 0.75);
  EXPECT_EQ(best.step(), 6);
  EXPECT_EQ(best.value(), 0.75);
  EXPECT_TRUE(best.is_better(1));
  EXPECT_FALSE(best.is_better(0.75));
}

TEST(BestCheckpoint, IsTakenUpUnderTheSameMetric) {
  BestCheckpoint best({}, "loss");
  best.compare(3, 2.0);
  best.compare(6, 1.5);
  const Json saved = best.state();
  BestCheckpoint resumed({}, "loss");
  EXPECT_TRUE(resumed.load_state(saved));
  EXPECT_EQ(resumed.step(), 6);
  EXPECT_FALSE(resumed.is_better(1.6));
  EXPECT_TRUE(resumed.is_better(1.4));

  BestCheckpoint other({}, "reward");
  EXPECT_FALSE(other.load_state(saved));
  EXPECT_FALSE(other.step());
  RunOptions reversed;
  reversed.greater_is_better = true;
  EXPECT_FALSE(BestCheckpoint(reversed, "loss").load_state(saved));

  for (const Json& nothing : {Json(), BestCheckpoint({}, "loss").state(), Json::object()}) {
    EXPECT_TRUE(resumed.load_state(nothing));
    EXPECT_FALSE(resumed.step());
  }
}

}  // namespace
}  // namespace lockstep::grpo
