// SPDX-License-Identifier: Apache-2.0
#include "rollout/step_cost.h"

#include <gtest/gtest.h>

namespace lockstep::rollout {
namespace {

TEST(StepCost, AStepWithAPromptTakesTheAskedMultipleOfOneWithout) {
  StepCost cost;
  const auto seconds = [](int64_t tokens) { return 0.010 + 0.0005 * static_cast<double>(tokens); };
  for (int step = 0; step < 50; ++step) {
    cost.add(8, seconds(8));
    cost.add(8 + 30, seconds(8 + 30));
  }
  // 8 tokens take 14 ms, so 2.5 times that leaves 21 ms for 42 more.
  EXPECT_NEAR(static_cast<double>(cost.prompt_tokens(8, 2.5)), 42, 1);
  EXPECT_NEAR(static_cast<double>(cost.prompt_tokens(64, 2)), 84, 1);
}

TEST(StepCost, GuessesBeforeItKnows) {
  StepCost cost;
  EXPECT_EQ(cost.prompt_tokens(1, 1), StepCost::kLeastTokens);
  EXPECT_GE(cost.prompt_tokens(64, 2.5), 64);
  for (int step = 0; step < 20; ++step) cost.add(5, 0.01);
  EXPECT_GE(cost.prompt_tokens(5, 2.5), StepCost::kLeastTokens);
  // Noise that would make more tokens cheaper is no line.
  StepCost noise;
  noise.add(10, 0.5);
  noise.add(100, 0.1);
  EXPECT_GE(noise.prompt_tokens(10, 2.5), StepCost::kLeastTokens);
}

}  // namespace
}  // namespace lockstep::rollout
