// SPDX-License-Identifier: Apache-2.0
#include "rollout/prefill_pace.h"

#include <gtest/gtest.h>

namespace lockstep::rollout {
namespace {

/// A machine whose prompt tokens cost more, the farther back they look.
double seconds(int64_t prefilled, int64_t decoded, int64_t context) {
  return 0.008 + 0.0005 * static_cast<double>(decoded) +
         static_cast<double>(prefilled) * (0.0006 + 4e-7 * static_cast<double>(context));
}

TEST(PrefillPace, ALongPromptStretchesNoStepByMoreThanIsAllowed) {
  PrefillPace pace(2.5);
  for (int step = 0; step < 30; ++step) pace.add(0, 8, seconds(0, 8, 0));
  const double most = 2.5 * seconds(0, 8, 0);
  int64_t context = 0, late = 0, steps = 0;
  while (context < 4000) {
    const int64_t tokens = pace.tokens(8, 1);
    const double taken = seconds(tokens, 8, context);
    pace.add(tokens, 8, taken);
    context += tokens;
    ++steps;
    late += taken > 1.05 * most;
    // It uses what it may, once it has found that out.
    if (steps > 10) {
      EXPECT_GT(taken, 0.8 * most) << context;
    }
  }
  EXPECT_LE(late, 5);
}

TEST(PrefillPace, KnowsWhatMoreSequencesCost) {
  PrefillPace pace(2);
  for (int64_t step = 0; step < 40; ++step) pace.add(0, 4 + step % 8, seconds(0, 4 + step % 8, 0));
  for (int step = 0; step < 20; ++step)
    pace.add(pace.tokens(8, 1), 64, seconds(pace.tokens(8, 1), 64, 0));
  // 64 sequences take 40 ms, so prompts may take as long: 66 tokens.
  EXPECT_NEAR(static_cast<double>(pace.tokens(8, 1)), 66, 5);
}

TEST(PrefillPace, StaysWithinItsBounds) {
  PrefillPace pace(2.5);
  pace.add(100, 4, 0.5);
  EXPECT_EQ(pace.tokens(8, 1), 32) << "nothing is known yet";
  for (int step = 0; step < 20; ++step) pace.add(0, 5, 0.01);
  for (int step = 0; step < 20; ++step) pace.add(pace.tokens(8, 1), 5, 10);
  EXPECT_EQ(pace.tokens(8, 1), PrefillPace::kLeastTokens);
  for (int step = 0; step < 100; ++step) pace.add(pace.tokens(8, 1), 5, 0.01);
  EXPECT_EQ(pace.tokens(8, 1), PrefillPace::kMostTokens);
  // A short end of a prompt changes nothing.
  const int64_t before = pace.tokens(8, 1);
  pace.add(3, 5, 0.011);
  EXPECT_EQ(pace.tokens(8, 1), before);
}

TEST(PrefillPace, WhereManyWaitForTheirFirstTokenNothingIsHeldBack) {
  const PrefillPace pace(2);
  EXPECT_EQ(pace.tokens(9, 2), 32);
  EXPECT_EQ(pace.tokens(8, 2), PrefillPace::kMostTokens);
  EXPECT_EQ(pace.tokens(0, 0), PrefillPace::kMostTokens);
}

}  // namespace
}  // namespace lockstep::rollout
