// The registry and the rewards that need no mathematics.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/json.h"
#include "reward/rewarder.h"
#include "tests/support/expect_error.h"

namespace lockstep::reward {
namespace {

double score_one(const RewardFunction& function, const RewardInput& input) {
  const auto scores = function.score({&input, 1});
  EXPECT_EQ(scores.size(), 1u);
  EXPECT_TRUE(scores.at(0).has_value());
  return scores.at(0).value_or(-1000.0);
}

double format_of(std::string_view completion) {
  return score_one(*make_reward("format", {}, 512), {.completion = completion});
}

double accuracy_of(std::string_view completion, const Json& columns) {
  return score_one(*make_reward("accuracy", {}, 512),
                   {.completion = completion, .columns = &columns, .where = "rows.jsonl:3"});
}

double overlong_of(size_t length, const RewardOptions& options, int64_t longest = 512) {
  const std::vector<int64_t> ids(length, 1);
  return score_one(*make_reward("soft_overlong", options, longest), {.token_ids = ids});
}

TEST(Reward, HasNamesOfMsSwift) {
  const RewardOptions options{.soft_cache_length = 4};
  EXPECT_EQ(make_reward("accuracy", options, 512)->class_name(), "MathAccuracy");
  EXPECT_EQ(make_reward("format", options, 512)->class_name(), "Format");
  EXPECT_EQ(make_reward("soft_overlong", options, 512)->class_name(), "SoftOverlong");
  for (const char* name : {"accuracy", "format", "soft_overlong"})
    EXPECT_EQ(make_reward(name, options, 512)->name(), name);
  EXPECT_ERROR(make_reward("acuracy", options, 512), ConfigError, "unknown-reward",
               "expected accuracy, format or soft_overlong, got acuracy");
}

// Expected values: Python's re.match(r"^<think>.*?</think>\s*<answer>.*?</answer>(?![\s\S])") with
// DOTALL.
TEST(Format, WantsBothBlocksAndNothingAround) {
  EXPECT_EQ(format_of("<think>a</think><answer>b</answer>"), 1.0);
  EXPECT_EQ(format_of("<think>a\nb</think> \n\t<answer>c\nd</answer>"), 1.0);
  EXPECT_EQ(format_of("<think></think><answer></answer>"), 1.0);
  EXPECT_EQ(format_of("<think>a</think>\u2003<answer>b</answer>"), 1.0);
  EXPECT_EQ(format_of("<think>a</think><answer>b</answer>\n"), 0.0);
  EXPECT_EQ(format_of(" <think>a</think><answer>b</answer>"), 0.0);
  EXPECT_EQ(format_of("<think>a</think>x<answer>b</answer>"), 0.0);
  EXPECT_EQ(format_of("<think>a</think>"), 0.0);
  EXPECT_EQ(format_of("<answer>b</answer>"), 0.0);
  EXPECT_EQ(format_of("<think>a<answer>b</answer>"), 0.0);
  EXPECT_EQ(format_of("<think>a</think><answer>b"), 0.0);
  EXPECT_EQ(format_of("<think>a</think></answer>"), 0.0);
  EXPECT_EQ(format_of(""), 0.0);
}

TEST(Format, LetsTheBlocksHoldTags) {
  EXPECT_EQ(format_of("<think>a</think>x<think>c</think><answer>b</answer>"), 1.0);
  EXPECT_EQ(format_of("<think>a</think><answer>b</answer>zz</answer>"), 1.0);
  EXPECT_EQ(format_of("<think></think></think><answer></answer></answer>"), 1.0);
}

TEST(SoftOverlong, FallsOverTheLastTokensWithoutFloor) {
  const RewardOptions options{.soft_max_length = 100, .soft_cache_length = 20};
  EXPECT_EQ(overlong_of(0, options), 0.0);
  EXPECT_EQ(overlong_of(80, options), 0.0);
  EXPECT_FALSE(std::signbit(overlong_of(80, options)));
  EXPECT_EQ(overlong_of(81, options), -1.0 / 20);
  EXPECT_EQ(overlong_of(90, options), -0.5);
  EXPECT_EQ(overlong_of(100, options), -1.0);
  EXPECT_EQ(overlong_of(140, options), -3.0);
}

TEST(SoftOverlong, TakesTheCompletionsLimitAsLongestLength) {
  EXPECT_EQ(overlong_of(60, {.soft_cache_length = 8}, 64), -0.5);
}

TEST(SoftOverlong, HasNoValueWhereTheLengthIsNotKnown) {
  const RewardInput input{.completion = "a"};
  const auto scores =
      make_reward("soft_overlong", {.soft_cache_length = 8}, 64)->score({&input, 1});
  EXPECT_EQ(scores, (std::vector<std::optional<double>>{std::nullopt}));
}

TEST(SoftOverlong, RefusesACacheThatIsNotShorter) {
  EXPECT_ERROR(make_reward("soft_overlong", {}, 512), ConfigError, "bad-config", "got none");
  EXPECT_ERROR(make_reward("soft_overlong", {.soft_max_length = 8, .soft_cache_length = 8}, 512),
               ConfigError, "bad-config", "expected between 1 and soft_max_length - 1 (7), got 8");
  EXPECT_ERROR(make_reward("soft_overlong", {.soft_cache_length = 0}, 512), ConfigError,
               "bad-config", "got 0");
}

TEST(MathAccuracy, ReadsTheColumnSolution) {
  EXPECT_EQ(accuracy_of("\\boxed{42}", {{"solution", "42"}}), 1.0);
  EXPECT_EQ(accuracy_of("\\boxed{42}", {{"solution", "43"}}), 0.0);
  EXPECT_EQ(accuracy_of("<answer>True</answer>", {{"solution", true}}), 1.0);
  EXPECT_EQ(accuracy_of("<answer>False</answer>", {{"solution", true}}), 0.0);
  // Numbers are taken as their text.
  EXPECT_EQ(accuracy_of("\\boxed{42}", {{"solution", 42}}), 1.0);
  EXPECT_EQ(accuracy_of("\\boxed{2.5}", {{"solution", 2.5}}), 1.0);
  const Json long_number = parse_json(R"({"solution": 987654321098765432109876543210})", "t", "t",
                                      {.keep_digits = true});
  EXPECT_EQ(accuracy_of("\\boxed{987654321098765432109876543210}", long_number), 1.0);
  EXPECT_EQ(accuracy_of("\\boxed{987654321098765432109876543211}", long_number), 0.0);
}

TEST(MathAccuracy, RefusesRowsWithoutATextualSolution) {
  EXPECT_ERROR(accuracy_of("x", Json::object()), FormatError, "bad-row",
               "rows.jsonl:3: expected a column solution");
  EXPECT_ERROR(accuracy_of("x", {{"solution", nullptr}}), FormatError, "bad-row", "got null");
  EXPECT_ERROR(accuracy_of("x", {{"solution", {"42"}}}), FormatError, "bad-row", "got array");
}

TEST(MathAccuracy, TellsWhatItCannotRead) {
  const auto accuracy = make_reward("accuracy", {}, 512);
  EXPECT_TRUE(accuracy->can_read({{"solution", "42"}}));
  EXPECT_TRUE(accuracy->can_read({{"solution", 1e-5}}));
  EXPECT_TRUE(accuracy->can_read({{"solution", "(C)"}}));
  EXPECT_FALSE(accuracy->can_read({{"solution", "$\\frac{1}{0}$"}}));
  EXPECT_FALSE(accuracy->can_read({{"solution", ""}}));
}

TEST(RewardOptions, AreRefusedWithTheirFlag) {
  const auto refused = [](const RewardOptions& options, const char* code, const char* text) {
    EXPECT_ERROR(options.validate(), ConfigError, code, text);
  };
  refused({}, "missing-flag", "--reward_funcs");
  refused({.reward_funcs = {"format", "accuracy", "format"}}, "bad-flag", "got format twice");
  refused({.reward_funcs = {"format"}, .reward_weights = {1, 2}}, "bad-flag",
          "--reward_weights: expected 1 weights, one a reward, got 2");
  RewardOptions{.reward_funcs = {"format", "accuracy"}, .reward_weights = {1, 2}}.validate();
}

TEST(Rewarder, GivesEachCompletionAValueForEachFunction) {
  const Rewarder rewarder({.reward_funcs = {"format", "accuracy", "soft_overlong"},
                           .reward_weights = {1, 2, 4},
                           .soft_cache_length = 4},
                          /*max_completion_length=*/8);
  const Json columns = {{"solution", "1"}};
  const std::vector<int64_t> ids(6, 1);
  const RewardInput inputs[] = {
      {.completion = "<think></think><answer>1</answer>", .token_ids = ids, .columns = &columns},
      {.completion = "\\boxed{1}", .columns = &columns}};
  const auto values = rewarder.score(inputs);
  EXPECT_EQ(values, (std::vector<Values>{{1.0, 1.0, -0.5}, {0.0, 1.0, std::nullopt}}));
  EXPECT_EQ(weighted_sum(values[0], rewarder.weights()), 1.0);
  EXPECT_EQ(weighted_sum(values[1], rewarder.weights()), 2.0);
  EXPECT_EQ(spread_of(values, 0).deviation, std::sqrt(0.5));
  EXPECT_EQ(spread_of(values, 2).count, 1);
  EXPECT_EQ(spread_of(values, 2).mean, -0.5);
  EXPECT_EQ(spread_of(values, 2).deviation, 0);
}

TEST(MathAccuracy, ScoresEachInput) {
  const Json columns = {{"solution", "1"}};
  const RewardInput inputs[] = {{.completion = "\\boxed{1}", .columns = &columns},
                                {.completion = "\\boxed{2}", .columns = &columns},
                                {.completion = "", .columns = &columns}};
  EXPECT_EQ(make_reward("accuracy", {}, 512)->score(inputs),
            (std::vector<std::optional<double>>{1.0, 0.0, 0.0}));
  EXPECT_TRUE(make_reward("accuracy", {}, 512)->score({}).empty());
}

}  // namespace
}  // namespace lockstep::reward
