// SPDX-License-Identifier: Apache-2.0
#include "grpo/advantages.h"

#include <cmath>

#include <gtest/gtest.h>

namespace lockstep::grpo {
namespace {

using Values = std::vector<std::vector<std::optional<double>>>;

TEST(Advantages, AreCentredAndScaledWithinTheirGroup) {
  const Values values{{1.0}, {0.0}, {0.0}, {0.0}, {5.0}, {5.0}, {5.0}, {5.0}};
  const auto result =
      compute_advantages(values, std::vector<double>{1}, 4, {.scale = ScaleRewards::kGroup});
  // Group 0: mean 1/4, unbiased deviation 1/2. Group 1: all equal.
  EXPECT_NEAR(result.advantages[0], 0.75 / (0.5 + 1e-4), 1e-12);
  EXPECT_NEAR(result.advantages[1], -0.25 / (0.5 + 1e-4), 1e-12);
  for (size_t i = 4; i < 8; ++i) EXPECT_EQ(result.advantages[i], 0);
  EXPECT_DOUBLE_EQ(result.frac_reward_zero_std, 0.5);
  EXPECT_DOUBLE_EQ(result.reward_mean, 21.0 / 8);
  EXPECT_DOUBLE_EQ(result.reward_std, 0.25);
}

TEST(Advantages, BatchScaleUsesOneDeviationAndNoneUsesNone) {
  const Values values{{2.0}, {0.0}, {4.0}, {0.0}};
  const double deviation = std::sqrt((0.25 + 2.25 + 6.25 + 2.25) / 3);
  const auto batch =
      compute_advantages(values, std::vector<double>{1}, 2, {.scale = ScaleRewards::kBatch});
  EXPECT_NEAR(batch.advantages[0], 1 / (deviation + 1e-4), 1e-12);
  EXPECT_NEAR(batch.advantages[2], 2 / (deviation + 1e-4), 1e-12);
  EXPECT_NEAR(batch.reward_std, deviation, 1e-12);
  const auto none =
      compute_advantages(values, std::vector<double>{1}, 2, {.scale = ScaleRewards::kNone});
  EXPECT_EQ(none.advantages, (std::vector<double>{1, -1, 2, -2}));
}

TEST(Advantages, WeightsApplyAndAMissingRewardDropsOut) {
  const Values values{{1.0, std::nullopt}, {std::nullopt, std::nullopt}};
  const auto result =
      compute_advantages(values, std::vector<double>{2, 0.5}, 2, {.scale = ScaleRewards::kNone});
  EXPECT_EQ(result.rewards, (std::vector<double>{2, 0}));
}

TEST(Advantages, AGroupOfOneHasNoDeviation) {
  const auto result =
      compute_advantages(Values{{3.0}}, std::vector<double>{1}, 1, {.scale = ScaleRewards::kGroup});
  EXPECT_EQ(result.advantages[0], 0);
}

}  // namespace
}  // namespace lockstep::grpo
