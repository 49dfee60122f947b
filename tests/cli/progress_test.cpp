// The text of a progress line: what is done, how fast, how long still; within a terminal's width.
// SPDX-License-Identifier: Apache-2.0
#include "cli/progress.h"

#include <gtest/gtest.h>

namespace lockstep::cli {
namespace {

ProgressState training() {
  return {.label = "step",
          .done = 12,
          .total = 400,
          .detail = "sampling 57/128",
          .rate = "3410 tokens/s",
          .seconds_left = 760};
}

TEST(ProgressText, TellsPhaseRateAndTimeLeft) {
  EXPECT_EQ(progress_text(training(), 0),
            "step 12/400  sampling 57/128  3410 tokens/s  12:40 left");
}

TEST(ProgressText, CountsUnits) {
  EXPECT_EQ(progress_text({.label = "score", .unit = "rows", .done = 20, .total = 100}, 0),
            "score 20/100 rows");
  EXPECT_EQ(progress_text({.label = "read", .unit = "rows", .done = 30}, 0), "read 30 rows");
}

TEST(ProgressText, DrawsABarWhereThereIsRoom) {
  EXPECT_EQ(progress_text({.label = "score", .unit = "rows", .done = 1, .total = 4}, 60),
            "score [######------------------] 1/4 rows");
  EXPECT_EQ(progress_text({.label = "score", .unit = "rows", .done = 4, .total = 4}, 30),
            "score [#############] 4/4 rows");
  EXPECT_EQ(progress_text({.label = "score", .unit = "rows", .done = 4, .total = 4}, 20),
            "score 4/4 rows");
}

TEST(ProgressText, LeavesOutWhatMattersLeastWhereItIsNarrow) {
  EXPECT_EQ(progress_text(training(), 56),
            "step 12/400  sampling 57/128  3410 tokens/s  12:40 left");
  EXPECT_EQ(progress_text(training(), 54), "step 12/400  sampling 57/128  12:40 left");
  EXPECT_EQ(progress_text(training(), 30), "step 12/400  sampling 57/128");
  EXPECT_EQ(progress_text(training(), 20), "step 12/400");
  EXPECT_EQ(progress_text(training(), 6), "step 1");
}

TEST(ProgressText, NeverIsWiderThanTheTerminal) {
  for (int width = 1; width < 120; ++width)
    EXPECT_LE(progress_text(training(), width).size(), size_t(width)) << width;
}

TEST(ProgressText, SaysWhatTheTimeIsOf) {
  ProgressState state = training();
  state.before_left = "at most ";
  state.after_left = " for sampling";
  EXPECT_EQ(progress_text(state, 0),
            "step 12/400  sampling 57/128  3410 tokens/s  at most 12:40 left for sampling");
}

TEST(ProgressText, TimesAndRatesAreShort) {
  EXPECT_EQ(clock_text(25), "0:25");
  EXPECT_EQ(clock_text(725), "12:05");
  EXPECT_EQ(clock_text(10925), "3:02:05");
  EXPECT_EQ(clock_text(-1), "0:00");
  EXPECT_EQ(rate_text(3410.4, "tokens"), "3410 tokens/s");
  EXPECT_EQ(rate_text(12.34, "rows"), "12.3 rows/s");
  EXPECT_EQ(rate_text(0.0823, "rows"), "0.0823 rows/s");
}

}  // namespace
}  // namespace lockstep::cli
