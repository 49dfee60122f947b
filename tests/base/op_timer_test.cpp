// SPDX-License-Identifier: Apache-2.0
#include "base/op_timer.h"

#include <thread>

#include <gtest/gtest.h>

namespace lockstep {
namespace {

void inner() {
  const OpTimer timer("inner");
  std::this_thread::sleep_for(std::chrono::milliseconds(1));
}
void outer() {
  const OpTimer timer("outer");
  inner();
}

TEST(OpTimer, CountsAnOpInsideAnotherOnce) {
  outer();  // before start: not counted
  OpTimer::start();
  outer();
  inner();
  std::thread(outer).join();
  const auto times = OpTimer::stop();
  inner();  // after stop: not counted
  ASSERT_EQ(times.size(), 2u);
  EXPECT_EQ(times[0].name, "outer");
  EXPECT_EQ(times[0].calls, 2);
  EXPECT_EQ(times[1].name, "inner");
  EXPECT_EQ(times[1].calls, 1);
  EXPECT_GE(times[0].seconds, 0.002);
  EXPECT_GE(times[1].seconds, 0.001);
}

TEST(OpTimer, ForgetsWhatWasMeasuredBefore) {
  OpTimer::start();
  inner();
  OpTimer::start();
  EXPECT_TRUE(OpTimer::stop().empty());
}

}  // namespace
}  // namespace lockstep
