// Blocks of numbers come back as they were, and what is none is not taken for one.
// SPDX-License-Identifier: Apache-2.0
#include "net/number_block.h"

#include <cstring>
#include <limits>
#include <random>

#include <gtest/gtest.h>

#include "base/json.h"
#include "tests/support/test_seed.h"

namespace lockstep::net {
namespace {

TEST(NumberBlock, ComesBackAsItWas) {
  std::mt19937_64 random(testing::test_seed(1));
  for (int64_t rows = 0; rows < 20; ++rows) {
    const std::vector<int64_t> shape{rows, 3, 1 + rows % 4};
    std::vector<int32_t> ids(static_cast<size_t>(rows * 3 * (1 + rows % 4)));
    std::vector<float> weights(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      ids[i] = static_cast<int32_t>(random());
      const auto bits = static_cast<uint32_t>(random());
      std::memcpy(&weights[i], &bits, sizeof(bits));
    }
    const auto of_ids =
        read_number_block<int32_t>(parse_json(number_block_text<int32_t>(shape, ids), "block"));
    ASSERT_TRUE(of_ids);
    EXPECT_EQ(of_ids->shape, shape);
    EXPECT_EQ(of_ids->values, ids);
    const Json block = parse_json(number_block_text<float>(shape, weights), "block");
    const auto of_weights = read_number_block<float>(block);
    ASSERT_TRUE(of_weights);
    EXPECT_EQ(std::memcmp(of_weights->values.data(), weights.data(), 4 * weights.size()), 0);
    EXPECT_FALSE(read_number_block<int32_t>(block));
  }
}

/// As Python's base64.b64encode(numpy.array([1, 256, -1], "<i4")) has them.
TEST(NumberBlock, IsLittleEndianInTheUsualAlphabet) {
  const std::vector<int64_t> shape{3};
  EXPECT_EQ(number_block_text<int32_t>(shape, std::vector<int32_t>{1, 256, -1}),
            R"({"dtype":"<i4","shape":[3],"data":"AQAAAAABAAD/////"})");
  EXPECT_EQ(number_block_text<float>(std::vector<int64_t>{1}, std::vector<float>{1}),
            R"({"dtype":"<f4","shape":[1],"data":"AACAPw=="})");
}

TEST(NumberBlock, WhatIsNoneIsRefused) {
  const std::string good =
      number_block_text<int32_t>(std::vector<int64_t>{2, 1}, std::vector<int32_t>{7, 8});
  const auto refused = [&](auto&& change) {
    Json block = parse_json(good, "block");
    EXPECT_TRUE(read_number_block<int32_t>(block));
    change(block);
    EXPECT_FALSE(read_number_block<int32_t>(block)) << dump_json(block);
  };
  refused([](Json& block) { block = 5; });
  refused([](Json& block) { block.erase("dtype"); });
  refused([](Json& block) { block["dtype"] = "<i8"; });
  refused([](Json& block) { block["shape"] = {2, 2}; });
  refused([](Json& block) { block["shape"] = {1}; });
  refused([](Json& block) { block["shape"] = {-2, -1}; });
  refused([](Json& block) { block["shape"] = {"2"}; });
  refused([](Json& block) { block["shape"] = {int64_t{1} << 39, int64_t{1} << 39}; });
  refused([](Json& block) { block["shape"] = {int64_t{1} << 38}; });
  refused([](Json& block) { block["data"] = 5; });
  refused([](Json& block) { block["data"] = "BwAAAAgAAA"; });
  refused([](Json& block) { block["data"] = "BwAAAAgAAAA*"; });
  refused([](Json& block) { block["data"] = "BwAAAAgAAA=="; });
}

}  // namespace
}  // namespace lockstep::net
