// SPDX-License-Identifier: Apache-2.0
#include "base/random.h"

#include <cmath>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/test_seed.h"

namespace lockstep {
namespace {

using Words = std::array<uint32_t, 4>;

TEST(Random, PhiloxGivesRandom123sKnownAnswers) {
  // Random123, tests/kat_vectors, "philox4x32 10".
  EXPECT_EQ(philox({0, 0}, {0, 0, 0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox({kOnes, kOnes}, {kOnes, kOnes, kOnes, kOnes}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0xa4093822, 0x299f31d0}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, StreamIsAFunctionOfPurposeSeedKeysAndIndex) {
  EXPECT_EQ(RandomStream("a", 1, 2, 3).bits(4), RandomStream("a", 1, 2, 3).bits(4));
  std::set<uint64_t> seen;
  for (const char* purpose : {"a", "b"}) {
    for (uint64_t seed = 0; seed < 3; ++seed) {
      for (uint64_t a = 0; a < 3; ++a) {
        for (uint64_t b = 0; b < 3; ++b) {
          for (uint64_t index : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32})
            seen.insert(RandomStream(purpose, seed, a, b).bits(index));
        }
      }
    }
  }
  EXPECT_EQ(seen.size(), 2u * 3 * 3 * 3 * 3);
}

TEST(Random, UniformStaysBelowOneAndHasItsMoments) {
  const RandomStream stream("uniform", testing::test_seed(7));
  constexpr int kDraws = 100000;
  double sum = 0, squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double value = stream.uniform(i);
    ASSERT_GE(value, 0.0);
    ASSERT_LT(value, 1.0);
    sum += value;
    squares += value * value;
  }
  // Five standard errors: sqrt(1/12 / n) of the mean, sqrt(4/45 / n) of the mean square.
  EXPECT_NEAR(sum / kDraws, 0.5, 5 * std::sqrt(1.0 / 12 / kDraws));
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / kDraws));
}

TEST(Random, BelowReachesEveryValueEvenly) {
  const RandomStream stream("below", testing::test_seed(3));
  constexpr uint64_t kBound = 7;
  constexpr int kDraws = 70000;
  std::vector<int> counts(kBound);
  for (int i = 0; i < kDraws; ++i) {
    const uint64_t value = stream.below(i, kBound);
    ASSERT_LT(value, kBound);
    ++counts[value];
  }
  const double expected = static_cast<double>(kDraws) / kBound;
  for (int count : counts) EXPECT_NEAR(count, expected, 5 * std::sqrt(expected));
  EXPECT_EQ(stream.below(0, 1), 0u);
}

TEST(Random, NormalHasItsMoments) {
  const RandomStream stream("normal", testing::test_seed(11));
  constexpr int kDraws = 100000;
  double sum = 0, squares = 0, fourth = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double value = stream.normal(i);
    ASSERT_TRUE(std::isfinite(value));
    sum += value;
    squares += value * value;
    fourth += value * value * value * value;
  }
  // Five standard errors; the variances of x, x^2 and x^4 are 1, 2 and 96.
  EXPECT_NEAR(sum / kDraws, 0, 5 * std::sqrt(1.0 / kDraws));
  EXPECT_NEAR(squares / kDraws, 1, 5 * std::sqrt(2.0 / kDraws));
  EXPECT_NEAR(fourth / kDraws, 3, 5 * std::sqrt(96.0 / kDraws));
}

}  // namespace
}  // namespace lockstep
