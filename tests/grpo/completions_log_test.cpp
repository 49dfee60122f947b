// Rounds that wait for the entropy of their completions.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/completions_log.h"

#include <gtest/gtest.h>

namespace lockstep::grpo {
namespace {

class Log : public ::testing::Test {
 protected:
  static Json round_of(const std::string& step, size_t count) {
    return {{"step", std::vector<std::string>(count, step)}};
  }
  void learn(const std::vector<int64_t>& numbers,
             const std::vector<std::optional<double>>& entropies) {
    std::vector<Experience> completions(numbers.size());
    for (size_t i = 0; i < numbers.size(); ++i) completions[i].number = numbers[i];
    log_.learn(completions, entropies);
  }

  std::vector<Json> lines_;
  CompletionsLog log_{true, [this](const Json& line) { lines_.push_back(line); }};
};

TEST_F(Log, ARoundIsWrittenWhenAllItsCompletionsHaveBeenLearnedFrom) {
  log_.add(round_of("1", 3), 6);
  learn({8, 6}, {0.5, 1.5});
  EXPECT_TRUE(lines_.empty());
  // Once more, under other weights; one that no round has; one without a token.
  learn({6, -1, 7, 9}, {9.0, 8.0, std::nullopt, 7.0});
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_EQ(lines_[0]["entropy"], Json({1.5, nullptr, 0.5}));
  log_.flush();
  EXPECT_EQ(lines_.size(), 1u);
}

TEST_F(Log, RoundsThatWaitAreWrittenWithWhatIsKnown) {
  log_.add(round_of("1", 2), 0);
  log_.add(round_of("1", 1), 2);
  learn({1}, {0.25});
  log_.flush();
  ASSERT_EQ(lines_.size(), 2u);
  EXPECT_EQ(lines_[0]["entropy"], Json({nullptr, 0.25}));
  EXPECT_EQ(lines_[1]["entropy"], Json::array({nullptr}));
  learn({0}, {1.0});
  EXPECT_EQ(lines_.size(), 2u);
}

TEST_F(Log, NothingWaitsWithoutEntropy) {
  CompletionsLog plain(false, [this](const Json& line) { lines_.push_back(line); });
  plain.add(round_of("1", 2), 0);
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_FALSE(lines_[0].contains("entropy"));
}

}  // namespace
}  // namespace lockstep::grpo
