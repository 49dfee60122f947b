// Times by phase and the time left, by a clock that the test moves.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/run_monitor.h"

#include <vector>

#include <gtest/gtest.h>

#include "base/json.h"

namespace lockstep::grpo {
namespace {

class Monitor : public ::testing::Test {
 protected:
  double now_ = 1000;
  std::vector<RunStatus> told_;
  RunMonitor monitor_{[this](const RunStatus& status) { told_.push_back(status); },
                      [this] { return now_; }};
  Metrics metrics_;

  /// A step of sampling and training that takes ten seconds.
  void step() {
    monitor_.enter(Phase::kRollout, 8, 100);
    now_ += 6;
    monitor_.enter(Phase::kTrain, 8, 400);
    now_ += 4;
    monitor_.end_step();
  }
};

TEST_F(Monitor, ToldIsPhaseCountAndTime) {
  monitor_.begin(10, 0);
  monitor_.enter(Phase::kRollout, 8, 100);
  now_ += 2;
  monitor_.progress(3, 50);
  const RunStatus& status = told_.back();
  EXPECT_EQ(status.phase, Phase::kRollout);
  EXPECT_STREQ(phase_doing(status.phase), "sampling");
  EXPECT_EQ(status.done, 3);
  EXPECT_EQ(status.total, 8);
  EXPECT_EQ(status.tokens, 50);
  EXPECT_EQ(status.total_tokens, 100);
  EXPECT_EQ(status.seconds, 2);
  EXPECT_FALSE(status.seconds_left);
  monitor_.enter(Phase::kTrain, 8, 400);
  monitor_.progress_share(0.25);
  EXPECT_EQ(told_.back().done, 2);
  EXPECT_EQ(told_.back().tokens, 100);
  EXPECT_EQ(told_.back().seconds, 0);
}

TEST_F(Monitor, AStepThatIsThroughIsToldAtOnce) {
  monitor_.begin(2, 0);
  monitor_.enter(Phase::kTrain, 8, 400);
  EXPECT_FALSE(told_.back().is_resting);
  EXPECT_EQ(told_.back().step, 0);
  now_ += 4;
  monitor_.end_step();
  EXPECT_TRUE(told_.back().is_resting);
  EXPECT_EQ(told_.back().step, 1);
  EXPECT_EQ(told_.back().seconds_left, 4.0);
  monitor_.enter(Phase::kSave);
  EXPECT_FALSE(told_.back().is_resting);
  monitor_.rest();
  EXPECT_TRUE(told_.back().is_resting);
}

TEST_F(Monitor, TimeLeftFollowsTheStepsOfThisRun) {
  monitor_.begin(10, 4);  // a resumed one
  step();
  step();
  EXPECT_DOUBLE_EQ(monitor_.seconds_left().value(), 40);
  monitor_.enter(Phase::kRollout);
  now_ += 3;
  EXPECT_DOUBLE_EQ(monitor_.seconds_left().value(), 37);
  // A step that takes longer than the others does not make the rest shorter.
  now_ += 30;
  EXPECT_DOUBLE_EQ(monitor_.seconds_left().value(), 30);
}

TEST_F(Monitor, TimesOfPhasesAddUpAndAreTakenOnce) {
  monitor_.begin(10, 0);
  step();
  monitor_.enter(Phase::kSave);
  now_ += 5;
  monitor_.rest();
  now_ += 100;  // belongs to no phase
  for (const Phase phase : {Phase::kRollout, Phase::kTrain, Phase::kSave})
    monitor_.take_time(phase, metrics_);
  step();
  for (const Phase phase : {Phase::kRollout, Phase::kTrain, Phase::kSave})
    monitor_.take_time(phase, metrics_);
  const Json values = metrics_.values();
  EXPECT_EQ(values.at("time/rollout"), 6);
  EXPECT_EQ(values.at("time/train"), 4);
  EXPECT_EQ(values.at("time/save"), 2.5);  // once in two steps
  EXPECT_FALSE(values.contains("time/score"));
  EXPECT_EQ(monitor_.total_seconds(Phase::kRollout), 12);
}

TEST_F(Monitor, TheLastStepLeavesNothing) {
  monitor_.begin(1, 0);
  step();
  EXPECT_EQ(monitor_.seconds_left(), 0.0);
}

}  // namespace
}  // namespace lockstep::grpo
