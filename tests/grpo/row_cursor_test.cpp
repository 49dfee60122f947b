// The endless list of rows.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/row_cursor.h"

#include <algorithm>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "grpo/run_data.h"

namespace lockstep::grpo {
namespace {

TEST(RowCursor, IsEpochAfterEpoch) {
  const DataOptions options;
  const RowCursor cursor(11, 9, options);
  const auto all = cursor.rows_at(0, 27);
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    auto expected = epoch_order(11, epoch, options);
    expected.resize(9);
    EXPECT_EQ(std::vector(all.begin() + epoch * 9, all.begin() + (epoch + 1) * 9), expected);
    EXPECT_EQ(std::set(expected.begin(), expected.end()).size(), 9u);
  }
}

TEST(RowCursor, AnyPartOfItIsThatOfTheWhole) {
  const DataOptions options;
  const RowCursor cursor(7, 7, options);
  const auto all = cursor.rows_at(0, 40);
  for (int64_t first = 0; first < 30; ++first)
    for (const int64_t count : {0, 1, 3, 10})
      EXPECT_EQ(cursor.rows_at(first, count),
                std::vector(all.begin() + first, all.begin() + first + count));
}

}  // namespace
}  // namespace lockstep::grpo
