// SPDX-License-Identifier: Apache-2.0
#include "grpo/reward_watch.h"

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lockstep::grpo {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class Watch : public ::testing::Test {
 protected:
  static reward::Rewarder rewarder_of(const std::vector<std::string>& names) {
    reward::RewardOptions options;
    options.reward_funcs = names;
    return {options, {.max_completion_length = 8}};
  }

  /// A batch of two groups of two completions, with these values of the functions.
  RewardedGroups batch(const std::vector<reward::Values>& values,
                       bool is_truncated = false,
                       const Json& solution = "42") {
    RewardedGroups round;
    round.groups.group_size = 2;
    for (int i = 0; i < 2; ++i) {
      text::Row& row = rows_.emplace_back();
      row.columns = {{"solution", solution}};
      prompts_.push_back({.row = &row, .messages = {}, .encoded = {}});
      round.groups.prompts.push_back(&prompts_.back());
    }
    for (int i = 0; i < 4; ++i) {
      round.groups.texts.push_back("The answer number " + std::to_string(i));
      round.groups.experiences.emplace_back().is_truncated = is_truncated;
    }
    round.values = values;
    round.advantages = compute_advantages(values, rewarder_->weights(), 2, {});
    return round;
  }

  /// What it warns of after three such batches; each step before says nothing.
  std::string warning(const std::vector<reward::Values>& values,
                      bool is_truncated = false,
                      const Json& solution = "42") {
    RewardWatch watch(*rewarder_);
    for (int i = 0; i < 2; ++i) EXPECT_FALSE(watch.add(batch(values, is_truncated, solution)));
    const auto text = watch.add(batch(values, is_truncated, solution));
    EXPECT_FALSE(watch.add(batch(values, is_truncated, solution))) << "it warns once";
    return text.value_or("");
  }

  std::optional<reward::Rewarder> rewarder_;
  std::deque<text::Row> rows_;
  std::deque<Prompt> prompts_;
};

TEST_F(Watch, SaysThatNoCompletionEnds) {
  rewarder_.emplace(rewarder_of({"accuracy"}));
  const std::vector<reward::Values> zeros(4, {0.0});
  EXPECT_THAT(warning(zeros, true),
              AllOf(HasSubstr("in the first 3 generation batches (12 completions)"),
                    HasSubstr("no completion ended by itself"),
                    HasSubstr("One ends \"The answer number 0\"")));
  EXPECT_THAT(warning(zeros, false), Not(HasSubstr("ended by itself")));
}

TEST_F(Watch, SaysThatTheFormatIsNeverMet) {
  rewarder_.emplace(rewarder_of({"accuracy", "format"}));
  const std::string text = warning(std::vector<reward::Values>(4, {1.0, 0.0}));
  EXPECT_THAT(text, HasSubstr("format is never met"));
  EXPECT_THAT(text, HasSubstr("accuracy is 1 for every completion"));
  EXPECT_THAT(text, HasSubstr("the solution of its row is \"42\""));
}

TEST_F(Watch, SaysThatNoSolutionIsRead) {
  rewarder_.emplace(rewarder_of({"accuracy"}));
  const Json unreadable = "";
  ASSERT_FALSE(rewarder_->functions()[0]->can_read({{"solution", unreadable}}));
  EXPECT_THAT(warning(std::vector<reward::Values>(4, {0.0}), false, unreadable),
              HasSubstr("accuracy can read the solution of no row. The first is \"\""));
}

TEST_F(Watch, SaysThatAFunctionHasNoValue) {
  rewarder_.emplace(rewarder_of({"repetition"}));
  EXPECT_THAT(warning(std::vector<reward::Values>(4, {std::nullopt})),
              HasSubstr("repetition has no value for any completion"));
}

TEST_F(Watch, SaysThatOnlyPromptsDiffer) {
  rewarder_.emplace(rewarder_of({"accuracy"}));
  EXPECT_THAT(warning({{0.0}, {0.0}, {1.0}, {1.0}}), HasSubstr("differ between prompts"));
}

TEST_F(Watch, IsSilentWhereABatchTeachesSomething) {
  rewarder_.emplace(rewarder_of({"accuracy"}));
  const std::vector<reward::Values> zeros(4, {0.0}), differing{{0.0}, {1.0}, {0.0}, {0.0}};
  for (int at = 0; at < 3; ++at) {
    RewardWatch watch(*rewarder_);
    for (int i = 0; i < 8; ++i) EXPECT_FALSE(watch.add(batch(i == at ? differing : zeros)));
  }
}

}  // namespace
}  // namespace lockstep::grpo
