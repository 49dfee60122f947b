// PackedSequences refuses what the ops that read it do not look out for.
// SPDX-License-Identifier: Apache-2.0
#include "ops/sequences.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "tests/support/expect_error.h"

namespace lockstep::ops {
namespace {

using ::testing::ElementsAre;

TEST(PackedSequences, KnowWhereEachStands) {
  PackedSequences sequences;
  EXPECT_EQ(sequences.count(), 0);
  EXPECT_EQ(sequences.tokens(), 0);
  sequences.append(3);
  EXPECT_FALSE(sequences.has_parents());
  sequences.append(1, 0);
  sequences.append(4);
  sequences.append(2, 0);
  EXPECT_THAT(sequences.offsets(), ElementsAre(0, 3, 4, 8, 10));
  EXPECT_THAT(sequences.parents(), ElementsAre(-1, 0, -1, 0));
  EXPECT_EQ(sequences.history(1), 3);
  EXPECT_EQ(sequences.history(2), 0);
  EXPECT_EQ(sequences.first_token(3), 8);
  EXPECT_EQ(sequences.length(3), 2);
  EXPECT_THAT(sequences.children(),
              ElementsAre(ElementsAre(1, 3), ElementsAre(), ElementsAre(), ElementsAre()));
}

TEST(PackedSequences, RefuseWhatNoOpExpects) {
  PackedSequences sequences;
  sequences.append(3);
  sequences.append(5, 0);
  EXPECT_ERROR(sequences.append(0), ShapeError, "bad-sequence", "at least one token, got 0");
  EXPECT_ERROR(sequences.append(-1), ShapeError, "bad-sequence", "got -1");
  EXPECT_ERROR(sequences.append(1, 2), ShapeError, "bad-sequence", "among the 2 before it, got 2");
  EXPECT_ERROR(sequences.append(1, -2), ShapeError, "bad-sequence", "got -2");
  EXPECT_ERROR(sequences.append(1, 1), ShapeError, "bad-sequence", "got 1, which continues 0");
  EXPECT_ERROR(sequences.append(PackedSequences::kMostTokens - 7), ShapeError, "bad-sequence",
               "got 8 + 2147483640");
  EXPECT_ERROR(sequences.append(std::numeric_limits<int64_t>::max()), ShapeError, "bad-sequence",
               "in all");
  // What was refused left nothing behind.
  EXPECT_THAT(sequences.offsets(), ElementsAre(0, 3, 8));
  EXPECT_THAT(sequences.parents(), ElementsAre(-1, 0));
  sequences.append(PackedSequences::kMostTokens - 8);
  EXPECT_EQ(sequences.tokens(), PackedSequences::kMostTokens);
}

}  // namespace
}  // namespace lockstep::ops
