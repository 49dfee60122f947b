// What rewards see of a completion in several turns.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "base/json.h"
#include "reward/environment_reward.h"
#include "reward/reward_json.h"
#include "reward/reward_options.h"
#include "reward/rewarder.h"
#include "tests/support/expect_error.h"

namespace lockstep::reward {
namespace {

struct Turns {
  Json messages = parse_json(R"([{"role": "assistant", "content": "a"},
                                 {"role": "tool", "name": "add", "content": "3"},
                                 {"role": "assistant", "content": "b"}])",
                             "test");
  std::vector<std::vector<int64_t>> turn_ids{{1, 2}, {3}};
  Json infos{{"num_turns", 2}};
  std::vector<int64_t> ids{1, 2, 9, 9, 9, 9, 3};

  RewardInput input() const {
    RewardInput made{.completion = "b", .token_ids = ids, .finish_reason = "stop"};
    made.turns = &messages;
    made.turn_ids = &turn_ids;
    made.infos = &infos;
    return made;
  }
};

TEST(RewardOfTurns, SeesTheLastTurnAndAllOfThem) {
  const Turns turns;
  const Json seen = completion_json(turns.input(), {});
  EXPECT_EQ(seen["completion"], "b");
  EXPECT_EQ(seen["completion_messages"], turns.messages);
  EXPECT_EQ(seen["turn_token_ids"], parse_json("[[1, 2], [3]]", "test"));
  EXPECT_EQ(seen["rollout_infos"], turns.infos);
  EXPECT_EQ(seen["token_ids"].size(), 7u);
}

TEST(RewardOfTurns, LengthsCountWhatWasSampled) {
  const Turns turns;
  EXPECT_EQ(turns.input().num_sampled(), 3);
  SoftOverlong overlong;
  overlong.soft_cache_length = 2;
  overlong.soft_max_length = 4;
  // One token more than the two that are free, of a cache of two.
  EXPECT_EQ(overlong.make({})->score({{turns.input()}}, {})[0], -0.5);
  EXPECT_EQ((RewardInput{.completion = "b"}.num_sampled()), std::nullopt);
}

TEST(RewardOfTurns, AnEnvironmentsRewardIsTheLastOne) {
  RewardOptions options;
  options.has_environment = true;
  options.reward_funcs = {"format"};
  options.reward_weights = {1, 2};
  const Rewarder rewarder(options, {});
  ASSERT_EQ(rewarder.functions().size(), 2u);
  EXPECT_EQ(rewarder.functions()[1]->name(), "gym_reward");
  const Turns turns;
  RewardInput with = turns.input(), without = turns.input();
  with.environment_reward = 0.25;
  const auto values = rewarder.score({{with, without}}, {});
  EXPECT_EQ(values[0][1], 0.25);
  EXPECT_EQ(values[1][1], std::nullopt);
  options.reward_weights = {1};
  EXPECT_ERROR(options.validate(), ConfigError, "bad-flag", "expected 2 weights");
  options.reward_funcs.clear();
  options.validate();
}

}  // namespace
}  // namespace lockstep::reward
