// Sums over ranks: their order, and who owns what.
// SPDX-License-Identifier: Apache-2.0
#include "parallel/ordered_sum.h"

#include <bit>
#include <optional>
#include <random>

#include <gtest/gtest.h>

#include "base/check.h"
#include "tests/parallel/run_ranks.h"
#include "tests/support/test_seed.h"

namespace lockstep::parallel {
namespace {

TEST(RangeOfRank, CutsAnyListIntoWholeBlocksWithoutGap) {
  std::mt19937_64 random(testing::test_seed(1));
  for (int trial = 0; trial < 300; ++trial) {
    const auto count = static_cast<int64_t>(random() % (uint64_t{1} << (random() % 40))),
               ranks = static_cast<int64_t>(1 + random() % (random() % 2 ? 9 : 4096));
    int64_t end = 0, least = count, most = 0;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const ElementRange range = range_of_rank(count, rank, ranks);
      ASSERT_EQ(range.first, end);
      ASSERT_GE(range.last, range.first);
      ASSERT_TRUE(range.last == count || range.last % kBlockElements == 0);
      end = range.last;
      least = std::min(least, range.count());
      most = std::max(most, range.count());
    }
    ASSERT_EQ(end, count);
    // The last block may be short.
    ASSERT_LE(most - least, 2 * kBlockElements) << count << " elements, " << ranks << " ranks";
  }
}

TEST(RangeOfRank, BlocksBeginAnewInEachPiece) {
  std::mt19937_64 random(testing::test_seed(2));
  for (int trial = 0; trial < 300; ++trial) {
    const auto period = static_cast<int64_t>(1 + random() % (3 * kBlockElements)),
               count = period * static_cast<int64_t>(random() % 40),
               ranks = static_cast<int64_t>(1 + random() % 9);
    int64_t end = 0;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const ElementRange range = range_of_rank(count, rank, ranks, period);
      ASSERT_EQ(range.first, end);
      ASSERT_GE(range.last, range.first);
      ASSERT_EQ(range.last % period % kBlockElements, 0);
      end = range.last;
      // Half of the pieces on half of the ranks: what a rank has does not depend on what lies
      // before its half.
      if (count % (2 * period) == 0 && ranks % 2 == 0 && rank < ranks / 2) {
        const ElementRange half = range_of_rank(count / 2, rank, ranks / 2, period);
        ASSERT_EQ(half.first, range.first);
        ASSERT_EQ(half.last, range.last);
      }
    }
    ASSERT_EQ(end, count);
  }
  EXPECT_EQ(range_of_rank(100, 0, 2, 10).last, 50);
  EXPECT_EQ(range_of_rank(100, 0, 2).last, 0) << "one block";
}

/// A list of a leaf of the tree, or nothing.
using Leaf = std::optional<std::vector<float>>;

/// The tree over leaves [first, first + count).
Leaf tree(const std::vector<Leaf>& leaves, size_t first, size_t count) {
  if (count == 1) return leaves[first];
  Leaf left = tree(leaves, first, count / 2), right = tree(leaves, first + count / 2, count / 2);
  if (!left || !right) return left ? left : right;
  for (size_t i = 0; i < left->size(); ++i) (*left)[i] += (*right)[i];
  return left;
}

std::vector<uint32_t> bits_of(std::span<const float> values) {
  std::vector<uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

/// Eight leaves of mixed magnitude, -0 among them, for each of several lists; a leaf may be
/// missing.
TEST(OrderedSum, RanksThatHaveSummedTheirLeavesAddUpToTheTree) {
  for (const int64_t size : {1, 2, 4, 8}) {
    std::mt19937_64 random(testing::test_seed(2));
    std::vector<std::vector<Leaf>> lists;
    for (const size_t count : {size_t{1}, size_t{0}, size_t{100}, size_t{16384}, size_t{16385},
                               size_t{100000}, size_t{5 * 16384}}) {
      std::vector<Leaf>& leaves = lists.emplace_back();
      for (int leaf = 0; leaf < 8; ++leaf) {
        leaves.emplace_back();
        if (random() % 4 == 0) continue;
        leaves.back().emplace(count);
        for (float& value : *leaves.back())
          value = random() % 9 ? std::ldexp(static_cast<float>(random() % 1000) - 500.0F,
                                            static_cast<int>(random() % 30) - 15)
                               : -0.0F;
      }
    }
    const auto leaves_of_rank = static_cast<size_t>(8 / size);
    run_ranks(size, [&](Group& group) {
      std::vector<std::vector<float>> own;
      std::vector<Summand> summands;
      for (const auto& leaves : lists) {
        Summand& summand = summands.emplace_back();
        size_t count = 0;
        for (const Leaf& leaf : leaves) count = std::max(count, leaf ? leaf->size() : 0);
        for (size_t first = 0; first < 8; first += leaves_of_rank)
          summand.is_there.push_back(tree(leaves, first, leaves_of_rank).has_value());
        const Leaf mine =
            tree(leaves, static_cast<size_t>(group.rank()) * leaves_of_rank, leaves_of_rank);
        // What is in the place of a list that is not there counts for nothing.
        own.push_back(mine ? *mine : std::vector<float>(count, 7));
      }
      for (size_t i = 0; i < own.size(); ++i) summands[i].values = own[i];
      ordered_sum(group, summands, {"sums"});
      for (size_t i = 0; i < own.size(); ++i) {
        const Leaf expected = tree(lists[i], 0, 8);
        if (!expected) continue;
        EXPECT_EQ(bits_of(own[i]), bits_of(*expected)) << "list " << i << ", " << size << " ranks";
      }
    });
  }
}

TEST(OrderedSum, OtherNumbersOfRanksThanPowersOfTwoAreRefused) {
  run_ranks(3, [](Group& group) {
    std::vector<float> values(3);
    const Summand summand{values, {1, 1, 1}};
    EXPECT_THROW(ordered_sum(group, {&summand, 1}, {"sums"}), InternalError);
  });
}

}  // namespace
}  // namespace lockstep::parallel
