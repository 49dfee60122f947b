// SPDX-License-Identifier: Apache-2.0
#include "report/length_grid.h"

#include <random>

#include <gtest/gtest.h>

#include "base/json.h"
#include "tests/support/test_seed.h"

namespace lockstep::report {
namespace {

TEST(LengthGrid, AFewRoundsAreColumnsOfTheirOwn) {
  LengthGrid grid;
  grid.add(1, std::vector<int64_t>{2, 2, 0});
  grid.add(2, std::vector<int64_t>{3});
  grid.add(3, {});
  EXPECT_EQ(
      parse_json(grid.json(), "grid"),
      Json({{"width", 1}, {"steps", {{1, 1}, {2, 2}}}, {"counts", {{1, 0, 2, 0}, {0, 0, 0, 1}}}}));
}

/// Whatever is made one, every completion is counted in the column of its step and the bin of its
/// length.
TEST(LengthGrid, NothingIsLostWhereColumnsAndBinsBecomeOne) {
  std::mt19937_64 random(testing::test_seed(3));
  for (const int64_t longest : {10, 47, 48, 200, 5000}) {
    LengthGrid grid;
    std::vector<std::pair<int64_t, int64_t>> all;
    for (int64_t step = 1; step <= 700; ++step) {
      std::vector<int64_t> lengths;
      for (size_t i = 1 + random() % 5; i > 0; --i) {
        lengths.push_back(static_cast<int64_t>(random()) % (longest + 1));
        if (lengths.back() < 0) lengths.back() = -lengths.back();
        all.emplace_back(step, lengths.back());
      }
      grid.add(step, lengths);
    }
    const Json json = parse_json(grid.json(), "grid");
    const int64_t width = json["width"];
    const Json &steps = json["steps"], &counts = json["counts"];
    ASSERT_LE(steps.size(), LengthGrid::kMostColumns);
    ASSERT_GE(steps.size(), LengthGrid::kMostColumns / 2);
    EXPECT_LE(longest / width, 47);
    EXPECT_TRUE(width == 1 || longest / (width / 2) >= 48) << width;
    for (size_t column = 0; column < steps.size(); ++column) {
      std::vector<int64_t> expected(counts[column].size());
      for (const auto& [step, length] : all)
        if (step >= steps[column][0] && step <= steps[column][1])
          ++expected[static_cast<size_t>(length / width)];
      EXPECT_EQ(counts[column].get<std::vector<int64_t>>(), expected);
      if (column > 0) {
        EXPECT_EQ(steps[column][0].get<int64_t>(), steps[column - 1][1].get<int64_t>() + 1);
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::report
