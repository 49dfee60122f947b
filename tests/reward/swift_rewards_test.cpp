// Rewards against ms-swift's own classes (tools/parity/rewards.py).
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <map>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "reward/reward_options.h"
#include "tests/support/json_lines.h"
#include "tests/support/source_dir.h"

namespace lockstep::reward {
namespace {

/// Fills fields from an object, whose keys it counts.
struct FieldReader {
  const Json& values;
  size_t num_read = 0;

  template <class T, class... More>
  void operator()(const char* name, T& field, const More&...) {
    const auto found = values.find(name);
    if (found == values.end()) return;
    ++num_read;
    if constexpr (requires { field.emplace(); })
      field = found->get<typename T::value_type>();
    else
      field = found->get<T>();
  }
};

RewardOptions options_of(const Json& values) {
  RewardOptions options;
  FieldReader reader{values};
  options.for_each_field(reader);
  EXPECT_EQ(reader.num_read, values.size()) << values;
  return options;
}

TEST(SwiftRewards, GiveTheScoresOfTheOriginalClasses) {
  std::map<std::string, int> seen;
  for_each_json_line(
      testing::source_dir() / "tests" / "data" / "reward" / "swift_rewards.jsonl",
      [&](int64_t line, const Json& row) {
        SCOPED_TRACE(fmt::format("line {}: {}", line, dump_json(row)));
        const std::string name = row["reward"], completion = row["completion"];
        const std::vector<int64_t> ids(row["length"].get<size_t>(), 1);
        const RewardInput input{.completion = completion, .token_ids = ids, .columns = &row};
        const auto scores =
            make_reward(name, options_of(row["options"]), {})->score({&input, 1}, {});
        ASSERT_TRUE(scores.at(0));
        EXPECT_NEAR(*scores[0], row["score"], 1e-15 * (1 + std::abs(row["score"].get<double>())));
        ++seen[name];
      });
  EXPECT_EQ(seen.size(), 6u);
  for (const auto& [name, count] : seen) EXPECT_GT(count, 100) << name;
}

}  // namespace
}  // namespace lockstep::reward
