// The text of a progress line: counts, rate, time left.
// SPDX-License-Identifier: Apache-2.0
#include "cli/progress.h"

#include <gtest/gtest.h>

namespace lockstep::cli {
namespace {

TEST(ProgressText, ShowsCountRateAndTimeLeft) {
  EXPECT_EQ(progress_text({.label = "train",
                           .unit = "step",
                           .done = 20,
                           .total = 100,
                           .seconds = 5,
                           .note = "loss 1.5"},
                          0),
            "train 20/100 step  4 step/s  0:20 left  loss 1.5");
}

TEST(ProgressText, CountsSlowWorkInSecondsAUnit) {
  EXPECT_EQ(
      progress_text({.label = "train", .unit = "step", .done = 2, .total = 1000, .seconds = 25}, 0),
      "train 2/1000 step  12.5 s/step  3:27:55 left");
}

TEST(ProgressText, ARateCountsFromWhereTheRunBegan) {
  EXPECT_EQ(
      progress_text(
          {.label = "train", .unit = "step", .done = 60, .total = 100, .start = 50, .seconds = 10},
          0),
      "train 60/100 step  1 step/s  0:40 left");
}

TEST(ProgressText, DrawsABarOfItsWidth) {
  EXPECT_EQ(progress_text({.label = "score", .unit = "row", .done = 1, .total = 4}, 8),
            "score [##------] 1/4 row");
  EXPECT_EQ(progress_text({.label = "score", .unit = "row", .done = 4, .total = 4}, 8),
            "score [########] 4/4 row");
}

TEST(ProgressText, WithoutATotalThereIsNoTimeLeft) {
  EXPECT_EQ(progress_text({.label = "read", .unit = "row", .done = 30, .seconds = 3}, 8),
            "read 30 row  10 row/s");
}

}  // namespace
}  // namespace lockstep::cli
