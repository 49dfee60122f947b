// Groups that are taken apart, put together, and gathered for dynamic sampling.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/rewarded_groups.h"

#include <tuple>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"

namespace lockstep::grpo {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const std::vector<double> kWeights{1};

/// Groups of two; the pair of rewards of each, and their numbers as advantages and texts.
RewardedGroups round_of(int first, const std::vector<std::pair<double, double>>& rewards) {
  RewardedGroups round;
  round.groups.group_size = 2;
  for (const auto& [a, b] : rewards) {
    round.groups.prompts.push_back(nullptr);
    for (const double reward : {a, b}) {
      Experience& experience = round.groups.experiences.emplace_back();
      experience.advantage = first;
      experience.sample.kept_rows = {first};
      round.groups.texts.push_back(std::to_string(first));
      round.values.push_back({reward});
    }
    ++first;
  }
  return round;
}

std::vector<std::string> texts_of_groups(const RewardedGroups& round) {
  EXPECT_EQ(round.groups.experiences.size(), 2 * round.groups.prompts.size());
  EXPECT_EQ(round.values.size(), 2 * round.groups.prompts.size());
  std::vector<std::string> texts;
  for (size_t i = 0; i < round.groups.texts.size(); i += 2) {
    EXPECT_EQ(round.groups.texts[i], round.groups.texts[i + 1]);
    EXPECT_EQ(std::to_string(static_cast<int>(round.groups.experiences[i].advantage)),
              round.groups.texts[i]);
    texts.push_back(round.groups.texts[i]);
  }
  return texts;
}

TEST(RewardedGroups, AreTakenApartAndPutTogether) {
  RewardedGroups round = round_of(0, {{0, 1}, {2, 3}, {4, 5}});
  RewardedGroups group = take_group(round, 1);
  EXPECT_EQ(group.values, (std::vector<reward::Values>{{2.0}, {3.0}}));
  EXPECT_THAT(texts_of_groups(group), ElementsAre("1"));
  append_groups(group, round_of(7, {{1, 0}}));
  EXPECT_THAT(texts_of_groups(group), ElementsAre("1", "7"));
}

/// What a reward notes of completions goes with them; its metrics are those of the round.
TEST(RewardedGroups, KeepTheNotesOfTheirRewards) {
  GroupPool pool(1, 2);
  pool.add(round_of(0, {{0, 1}}), kWeights, {});
  RewardedGroups round = round_of(1, {{1, 1}, {0, 1}});
  round.notes.extra["note"] = {Json(10), Json(11), Json(12), Json(13)};
  round.notes.metrics["number"] = {4, 6};
  pool.add(std::move(round), kWeights, {});
  const RewardedGroups batch = pool.take();
  EXPECT_EQ(batch.notes.metrics.at("number"), (std::vector<double>{4, 6}));
  EXPECT_EQ(batch.notes.extra.at("note"), (std::vector<Json>{Json(), Json()}));
  const RewardedGroups next = pool.take();
  EXPECT_TRUE(next.notes.metrics.empty());
  EXPECT_EQ(next.notes.extra.at("note"), (std::vector<Json>{Json(12), Json(13)}));
}

TEST(GroupPool, KeepsGroupsThatDifferInTheirOrderAndLetsTheRestWait) {
  GroupPool pool(2, 2);
  EXPECT_EQ(pool.missing(), 2);
  EXPECT_EQ(pool.next_draw(), 2);
  pool.add(round_of(0, {{1, 1}, {0, 1}}), kWeights, {});
  EXPECT_EQ(pool.missing(), 1);
  EXPECT_EQ(pool.next_draw(), 2);  // every second one differed
  pool.add(round_of(2, {{0, 2}, {3, 1}}), kWeights, {});
  EXPECT_EQ(pool.missing(), 0);
  EXPECT_EQ(pool.sampled(), 4);
  EXPECT_EQ(pool.differing(), 3);
  EXPECT_THAT(texts_of_groups(pool.take()), ElementsAre("1", "2"));
  // The third waits, without what the layers read for it.
  EXPECT_THAT(texts_of_groups(pool.kept()), ElementsAre("3"));
  EXPECT_THAT(pool.kept().groups.experiences[0].sample.kept_rows, IsEmpty());
  EXPECT_EQ(pool.missing(), 1);
  EXPECT_EQ(pool.next_draw(), 1);  // counted anew
  pool.add(round_of(4, {{0, 1}}), kWeights, {});
  EXPECT_THAT(texts_of_groups(pool.take()), ElementsAre("3", "4"));
  EXPECT_THAT(texts_of_groups(pool.kept()), IsEmpty());
}

TEST(GroupPool, IsFilledUpWithTheLastGroupsOfEqualRewards) {
  GroupPool pool(3, 2);
  pool.add(round_of(0, {{1, 1}, {1, 1}, {1, 1}}), kWeights, {});
  EXPECT_EQ(pool.next_draw(), 3);
  pool.add(round_of(3, {{2, 2}, {0, 1}, {2, 2}}), kWeights, {});
  EXPECT_EQ(pool.missing(), 2);
  EXPECT_THAT(texts_of_groups(pool.take()), ElementsAre("4", "3", "5"));
  // They do not wait for the next batch.
  EXPECT_EQ(pool.missing(), 3);
  EXPECT_THAT(texts_of_groups(pool.kept()), IsEmpty());
}

/// A batch whose groups have all been waiting takes no others.
TEST(GroupPool, TakesMoreThanABatchInTurns) {
  GroupPool pool(2, 2);
  pool.add(round_of(0, {{0, 1}, {0, 1}, {0, 1}, {0, 1}, {0, 1}}), kWeights, {});
  EXPECT_THAT(texts_of_groups(pool.take()), ElementsAre("0", "1"));
  EXPECT_EQ(pool.missing(), 0);
  EXPECT_THAT(texts_of_groups(pool.take()), ElementsAre("2", "3"));
  EXPECT_EQ(pool.missing(), 1);
}

/// gdpo scales each reward by itself: equal sums may hide rewards that differ, and rewards that
/// differ may cancel.
TEST(GroupPool, WithGdpoAGroupDiffersWhereItHasAdvantages) {
  const AdvantageRule gdpo{.estimator = AdvantageEstimator::kGdpo};
  const std::vector<double> weights{1, 0.1};
  const auto round = [](int first,
                        const std::vector<std::pair<reward::Values, reward::Values>>& r) {
    RewardedGroups made = round_of(first, std::vector<std::pair<double, double>>(r.size(), {0, 0}));
    for (size_t i = 0; i < r.size(); ++i)
      std::tie(made.values[2 * i], made.values[2 * i + 1]) = r[i];
    return made;
  };
  const std::vector<std::pair<reward::Values, reward::Values>> rewards = {
      {{1.0, 0.0}, {0.9, 1.0}},   // Sums of 1; the first weighs more.
      {{1.0, 3.0}, {1.0, 3.0}},   // Nothing differs.
      {{1.0, 0.0}, {0.0, 0.5}}};  // Both differ.
  GroupPool pool(3, 2);
  pool.add(round(0, rewards), weights, gdpo);
  EXPECT_EQ(pool.differing(), 2);
  EXPECT_THAT(texts_of_groups(pool.kept()), ElementsAre("0", "2"));
  // Of equal weight, two rewards that go against one another leave nothing.
  GroupPool cancelled(3, 2);
  cancelled.add(round(0, rewards), std::vector<double>{1, 1}, gdpo);
  EXPECT_EQ(cancelled.differing(), 0);
  // The sums decide for the others.
  GroupPool sums(3, 2);
  sums.add(round(0, rewards), weights, {});
  EXPECT_THAT(texts_of_groups(sums.kept()), ElementsAre("2"));
}

TEST(GroupPool, AGroupWithoutRewardsDoesNotDiffer) {
  GroupPool pool(1, 2);
  RewardedGroups round = round_of(0, {{0, 1}});
  round.values = {{std::nullopt}, {1.0}};
  pool.add(std::move(round), kWeights, {});
  EXPECT_EQ(pool.missing(), 1);
}

}  // namespace
}  // namespace lockstep::grpo
