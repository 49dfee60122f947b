// SPDX-License-Identifier: Apache-2.0
#include "report/samples.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "tests/support/temp_dir.h"

namespace lockstep::report {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SamplesTest : public ::testing::Test {
 protected:
  /// Logs a round: for each prompt completions "PROMPT at STEP: i", the advantage of the last one
  /// the greatest.
  void round(int64_t step, const std::vector<std::string>& prompts, int completions = 4) {
    Json line{{"step", Json::array()}, {"prompt", Json::array()}, {"completion", Json::array()}};
    for (const std::string& prompt : prompts)
      for (int i = 0; i < completions; ++i) {
        line["step"].push_back(std::to_string(step));
        line["prompt"].push_back(prompt);
        line["completion"].push_back(prompt + " at " + std::to_string(step) + ": " +
                                     std::to_string(i));
        line["Format"].push_back(i == 0 ? Json() : Json(0.5 * i));
        line["advantages"].push_back(i - 1.5);
        line["solution"].push_back("s<" + prompt + ">");
        line["finish_reason"].push_back(i % 2 ? "length" : "stop");
        line["token_ids"].push_back(std::vector<int>(static_cast<size_t>(i) + 1, 7));
      }
    write(line, step);
  }
  void write(const Json& line, int64_t step) {
    const std::string text = dump_json(line, /*spaced=*/true);
    samples_.add(*members_of(text), step, offset_, std::ssize(text));
    std::ofstream(file_, std::ios::app) << text << "\n";
    offset_ += std::ssize(text) + 1;
  }
  Json shown() const { return parse_json(samples_.json(file_), "samples"); }

  testing::TempDir folder_;
  std::filesystem::path file_ = folder_ / "completions.jsonl";
  Samples samples_;
  int64_t offset_ = 0;
};

std::vector<int64_t> steps_of(const Json& prompt) {
  std::vector<int64_t> steps;
  for (const Json& round : prompt["rounds"]) steps.push_back(round["step"]);
  return steps;
}

TEST_F(SamplesTest, APromptIsShownAtItsStepsWithItsBestMiddleAndWorstCompletion) {
  round(1, {"a", "b"});
  round(2, {"c", "a"});
  round(3, {"a"});
  const Json shown = this->shown();
  EXPECT_EQ(shown["rewards"], Json::array({"Format"}));
  EXPECT_EQ(shown["rounds"], 3);
  EXPECT_EQ(shown["distinct"], 3);
  ASSERT_EQ(shown["prompts"].size(), 3u);
  const Json& first = shown["prompts"][0];
  EXPECT_EQ(first["prompt"], "a");
  EXPECT_EQ(first["solution"], "s<a>");
  EXPECT_EQ(first["seen"], 3);
  EXPECT_THAT(steps_of(first), ElementsAre(1, 2, 3));
  const Json& at_two = first["rounds"][1];
  EXPECT_EQ(at_two["count"], 4);
  ASSERT_EQ(at_two["completions"].size(), 3u);
  EXPECT_EQ(at_two["completions"][0], Json({{"text", "a at 2: 3"},
                                            {"rewards", {1.5}},
                                            {"advantage", 1.5},
                                            {"length", 4},
                                            {"reason", "length"}}));
  EXPECT_EQ(at_two["completions"][2]["text"], "a at 2: 0");
  EXPECT_EQ(at_two["completions"][2]["rewards"], Json::array({nullptr}));
  // The others came once, in the order of the steps.
  EXPECT_EQ(shown["prompts"][1]["prompt"], "b");
  EXPECT_EQ(shown["prompts"][2]["prompt"], "c");
}

TEST_F(SamplesTest, OfManyStepsSomeAreShownTheFirstAndTheLastAmongThem) {
  for (int64_t step = 1; step <= 100; ++step) round(step, {"a", "only " + std::to_string(step)}, 1);
  const Json shown = this->shown();
  ASSERT_EQ(shown["prompts"].size(), Samples::kMostPrompts);
  const auto steps = steps_of(shown["prompts"][0]);
  ASSERT_EQ(steps.size(), Samples::kMostRounds);
  EXPECT_EQ(steps.front(), 1);
  EXPECT_EQ(steps.back(), 100);
}

TEST_F(SamplesTest, PromptsThatComeOnceAreSpreadOverTheSteps) {
  for (int64_t step = 1; step <= 200; ++step) round(step, {std::to_string(step)}, 1);
  const Json shown = this->shown();
  ASSERT_EQ(shown["prompts"].size(), Samples::kMostPrompts);
  EXPECT_EQ(shown["prompts"].front()["prompt"], "1");
  EXPECT_EQ(shown["prompts"].back()["prompt"], "200");
  for (size_t i = 1; i < shown["prompts"].size(); ++i)
    EXPECT_LE(steps_of(shown["prompts"][i])[0] - steps_of(shown["prompts"][i - 1])[0], 10);
}

TEST_F(SamplesTest, LongTextsLoseTheirMiddleBetweenCharacters) {
  std::string text;
  for (int i = 0; i < 3000; ++i) text += "é";
  text += "END";
  write({{"step", {"1"}}, {"prompt", {text}}, {"completion", {text}}, {"advantages", {0}}}, 1);
  const Json shown = this->shown();
  const std::string prompt = shown["prompts"][0]["prompt"];
  EXPECT_LT(prompt.size(), Samples::kMostPromptBytes + 40);
  EXPECT_THAT(prompt, HasSubstr("bytes…]"));
  EXPECT_TRUE(prompt.ends_with("END"));
  const std::string answer = shown["prompts"][0]["rounds"][0]["completions"][0]["text"];
  EXPECT_LT(answer.size(), Samples::kMostCompletionBytes + 40);
}

/// ms-swift writes no token ids and no reasons, TRL calls advantages by another name.
TEST_F(SamplesTest, OtherTrainersColumnsAreRead) {
  write({{"step", {"5", "5"}},
         {"prompt", {"p", "p"}},
         {"completion", {"worse", "better"}},
         {"MyORM", {0.25, 1}},
         {"num_turns", {1, 2}},
         {"advantage", {-1, 1}}},
        5);
  const Json shown = this->shown();
  EXPECT_EQ(shown["rewards"], Json::array({"MyORM"}));
  const Json& best = shown["prompts"][0]["rounds"][0]["completions"][0];
  EXPECT_EQ(best["text"], "better");
  EXPECT_FALSE(best.contains("length"));
  EXPECT_EQ(best["reason"], "");
}

/// A run of millions of prompts: memory ends, and those that come again stay.
TEST(Samples, PlacesAreBounded) {
  Samples samples;
  for (int64_t step = 0; step < 60'000; ++step) {
    std::string line = R"({"step": ["1"], "prompt": ["again")";
    for (int i = 0; i < 9; ++i)
      line += ",\"" + std::to_string(step) + "/" + std::to_string(i) + "\"";
    line += "]}";
    samples.add(*members_of(line), step, 0, std::ssize(line));
  }
  EXPECT_LT(samples.num_prompts(), Samples::kMostPlaces);
  EXPECT_GT(samples.num_prompts(), Samples::kMostPlaces / 8);
}

}  // namespace
}  // namespace lockstep::report
