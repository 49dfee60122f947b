// Rewards in other processes work while other completions are still sampled.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/round_rewards.h"

#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/file.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::grpo {
namespace {

using testing::TempDir;

/// A program that appends a mark to `log` for each line, and answers 1 where it holds "good".
std::string judge(const std::filesystem::path& log, const std::string& more = "") {
  return "program:while read -r line; do echo x >> " + log.string() + "; " + more +
         "case \"$line\" in *good*) echo 1;; *) echo 0;; esac; done";
}

size_t lines_of(const std::filesystem::path& log) {
  return std::filesystem::exists(log) ? std::filesystem::file_size(log) / 2 : 0;
}
bool has_soon(const std::filesystem::path& log, size_t lines) {
  for (int i = 0; i < 1000 && lines_of(log) < lines; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return lines_of(log) == lines;
}

class RoundRewardsTest : public ::testing::Test {
 protected:
  RoundRewardsTest() {
    row_.where = "rows:1";
    row_.columns = Json::object();
    for (int i = 0; i < 3; ++i) prompts_.push_back(Prompt{&row_, Json::array(), {}, {}});
  }
  std::vector<const Prompt*> prompts() const {
    std::vector<const Prompt*> pointers;
    for (const Prompt& prompt : prompts_) pointers.push_back(&prompt);
    return pointers;
  }
  static void add(RoundRewards& rewards, size_t completion) {
    rewards.add(
        completion,
        {completion % 3 ? "<think></think><answer></answer>" : "good", {1, 2, 3}, "stop", {}});
  }

  TempDir folder_;
  text::Row row_;
  std::vector<Prompt> prompts_;
};

TEST_F(RoundRewardsTest, AGroupThatIsDoneIsJudgedBeforeTheOthersAre) {
  const auto log = folder_ / "log";
  const reward::Rewarder rewarder({.reward_funcs = {"x=" + judge(log), "format"}}, {});
  RoundRewards rewards(rewarder, {});
  rewards.begin(prompts(), 2);
  add(rewards, 2);
  add(rewards, 1);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(lines_of(log), 0u);  // no group is whole
  add(rewards, 3);
  EXPECT_TRUE(has_soon(log, 2));
  for (const size_t completion : {5, 0, 4}) add(rewards, completion);
  EXPECT_EQ(rewards.finish().values,
            (std::vector<reward::Values>{
                {1.0, 0.0}, {0.0, 1.0}, {0.0, 1.0}, {1.0, 0.0}, {0.0, 1.0}, {0.0, 1.0}}));
  EXPECT_EQ(lines_of(log), 6u);
  EXPECT_GT(rewards.hidden_seconds(), 0);
}

TEST_F(RoundRewardsTest, OneWithoutOtherProcessesHidesNothing) {
  const reward::Rewarder rewarder({.reward_funcs = {"format"}}, {});
  RoundRewards rewards(rewarder, {});
  rewards.begin(prompts(), 1);
  for (const size_t completion : {2, 1, 0}) add(rewards, completion);
  EXPECT_EQ(rewards.finish().values, (std::vector<reward::Values>{{0.0}, {1.0}, {1.0}}));
  EXPECT_EQ(rewards.hidden_seconds(), 0);
}

TEST_F(RoundRewardsTest, TooManyFailuresStopTheSampling) {
  reward::RewardOptions options{.reward_funcs = {"program:exit 3"}};
  options.external.reward_max_failures = 1;
  const reward::Rewarder rewarder(options, {});
  RoundRewards rewards(rewarder, {});
  rewards.begin(prompts(), 2);
  add(rewards, 0);
  add(rewards, 1);
  const auto add_until_it_throws = [&] {
    for (int i = 0; i < 1000; ++i) {
      rewards.add(2, {"a", {}, "stop", {}});
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  };
  EXPECT_ERROR(add_until_it_throws(), PeerError, "reward-failed", "expected at most 1 completions");
}

TEST_F(RoundRewardsTest, AFailureAtTheEndIsThrownByFinish) {
  reward::RewardOptions options{.reward_funcs = {"program:sleep 0.2; exit 3"}};
  options.external.reward_max_failures = 0;
  const reward::Rewarder rewarder(options, {});
  RoundRewards rewards(rewarder, {});
  rewards.begin(prompts(), 1);
  for (const size_t completion : {2, 1, 0}) add(rewards, completion);
  EXPECT_ERROR(rewards.finish(), PeerError, "reward-failed", "exit code 3");
}

// What stops the sampling (Ctrl-C, a server that is gone) leaves the round as it is.
TEST_F(RoundRewardsTest, ARoundThatIsGivenUpEnds) {
  const auto log = folder_ / "log";
  const reward::Rewarder rewarder({.reward_funcs = {judge(log, "sleep 0.1; ")}}, {});
  {
    RoundRewards rewards(rewarder, {});
    rewards.begin(prompts(), 1);
    add(rewards, 0);
    EXPECT_TRUE(has_soon(log, 1));
    add(rewards, 1);
  }
  EXPECT_LE(lines_of(log), 2u);
}

TEST(Notes, AreInTheOrderOfCompletionsWhateverCameFirst) {
  const auto notes_of = [](std::vector<size_t> order) {
    reward::PlacedNotes all;
    for (const size_t group : order) {
      reward::PlacedNotes own;
      own.metrics["m"].emplace(0, static_cast<double>(group));
      own.add_extra("c", 0, 2, Json({group, "x"}));
      const size_t places[] = {2 * group, 2 * group + 1};
      all.take(std::move(own), places, 6);
    }
    reward::Notes notes;
    all.move_to(notes);
    return std::pair(notes.metrics["m"], notes.extra["c"]);
  };
  EXPECT_EQ(notes_of({2, 0, 1}), notes_of({0, 1, 2}));
  EXPECT_EQ(notes_of({2, 0, 1}).first, (std::vector<double>{0, 1, 2}));
  EXPECT_EQ(notes_of({2, 0, 1}).second, (std::vector<Json>{0, "x", 1, "x", 2, "x"}));
  EXPECT_EQ(notes_of({2}).second, (std::vector<Json>{{}, {}, {}, {}, 2, "x"}));
}

}  // namespace
}  // namespace lockstep::grpo
