// The weight of the entropy bonus over some steps.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/entropy_control.h"

#include <gtest/gtest.h>

namespace lockstep::grpo {
namespace {

constexpr LossOptions kAdaptive{.entropy_coef = 0.01,
                                .use_adaptive_entropy = true,
                                .entropy_coef_min = 0.005,
                                .entropy_coef_max = 0.02,
                                .entropy_coef_delta = 0.006,
                                .entropy_target = 1};

TEST(EntropyControl, IsConstantUnlessAdaptive) {
  EntropyControl control({.entropy_coef = -0.3});
  EXPECT_EQ(control.applied(), -0.3);
  control.update(0);
  EXPECT_EQ(control.applied(), -0.3);
}

/// As TRL's: the bonus is given after a step of low entropy only, and moves with each step.
TEST(EntropyControl, FollowsTheEntropyWithinItsBounds) {
  EntropyControl control(kAdaptive);
  EXPECT_EQ(control.applied(), 0);  // no step has been seen
  control.update(0.5);
  EXPECT_DOUBLE_EQ(control.applied(), 0.016);
  control.update(1);  // at the target counts as low
  EXPECT_DOUBLE_EQ(control.applied(), 0.02);
  control.update(1.5);
  EXPECT_EQ(control.applied(), 0);
  control.update(2);
  control.update(2);
  control.update(0.1);  // from its least value
  EXPECT_DOUBLE_EQ(control.applied(), 0.011);
}

TEST(EntropyControl, GoesOnFromItsState) {
  EntropyControl first(kAdaptive), second(kAdaptive), fresh(kAdaptive);
  first.update(0.2);
  second.load_state(first.state());
  EXPECT_EQ(second.applied(), first.applied());
  second.load_state(fresh.state());
  EXPECT_EQ(second.applied(), 0);
}

}  // namespace
}  // namespace lockstep::grpo
