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
  const auto scores = function.score({&input, 1}, {});
  EXPECT_EQ(scores.size(), 1u);
  EXPECT_TRUE(scores.at(0).has_value());
  return scores.at(0).value_or(-1000.0);
}

double format_of(std::string_view completion) {
  return score_one(*make_reward("format", {}, {}), {.completion = completion});
}

double accuracy_of(std::string_view completion, const Json& columns) {
  return score_one(*make_reward("accuracy", {}, {}),
                   {.completion = completion, .columns = &columns, .where = "rows.jsonl:3"});
}

double overlong_of(size_t length, const SoftOverlong& options, int64_t longest = 512) {
  const std::vector<int64_t> ids(length, 1);
  return score_one(*options.make({longest}), {.token_ids = ids});
}

double cosine_of(size_t length, std::string_view completion, const Cosine& options) {
  const Json columns = {{"solution", "42"}};
  const std::vector<int64_t> ids(length, 1);
  return score_one(*options.make({64}),
                   {.completion = completion, .token_ids = ids, .columns = &columns});
}

double repetition_of(std::string_view completion, const Repetition& options = {}) {
  return score_one(*options.make({}), {.completion = completion});
}

TEST(Reward, HasNamesOfMsSwift) {
  RewardOptions options;
  std::get<SoftOverlong>(options.builtin).soft_cache_length = 4;
  const std::pair<const char*, const char*> kNames[] = {{"accuracy", "MathAccuracy"},
                                                        {"format", "Format"},
                                                        {"react_format", "ReActFormat"},
                                                        {"cosine", "CosineReward"},
                                                        {"repetition", "RepetitionPenalty"},
                                                        {"soft_overlong", "SoftOverlong"},
                                                        {"toolbench", "ReactORM"}};
  EXPECT_EQ(std::size(kNames), std::tuple_size_v<BuiltinRewards>);
  for (const auto& [name, class_name] : kNames) {
    EXPECT_EQ(make_reward(name, options, {})->name(), name);
    EXPECT_EQ(make_reward(name, options, {})->class_name(), class_name);
  }
  EXPECT_ERROR(make_reward("acuracy", options, {}), ConfigError, "unknown-reward",
               "expected one of accuracy, format, react_format, cosine, repetition, soft_overlong, "
               "toolbench, math_verify, program:COMMAND, http://… or module:function, got acuracy");
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

TEST(SoftOverlong, FallsOverTheLastTokens) {
  SoftOverlong options{.soft_max_length = 100, .soft_cache_length = 20};
  EXPECT_EQ(overlong_of(0, options), 0.0);
  EXPECT_EQ(overlong_of(80, options), 0.0);
  EXPECT_FALSE(std::signbit(overlong_of(80, options)));
  EXPECT_EQ(overlong_of(81, options), -1.0 / 20);
  EXPECT_EQ(overlong_of(90, options), -0.5);
  EXPECT_EQ(overlong_of(100, options), -1.0);
  // Behind the limit it stays there, unless ms-swift's penalty is wanted.
  EXPECT_EQ(overlong_of(140, options), -1.0);
  options.soft_floor = false;
  EXPECT_EQ(overlong_of(140, options), -3.0);
}

TEST(SoftOverlong, TakesTheCompletionsLimitAsLongestLength) {
  EXPECT_EQ(overlong_of(60, {.soft_cache_length = 8}, 64), -0.5);
}

TEST(SoftOverlong, HasNoValueWhereTheLengthIsNotKnown) {
  const RewardInput input{.completion = "a"};
  const auto scores = SoftOverlong{.soft_cache_length = 8}.make({64})->score({&input, 1}, {});
  EXPECT_EQ(scores, (std::vector<std::optional<double>>{std::nullopt}));
}

TEST(SoftOverlong, RefusesACacheThatIsNotShorter) {
  const auto make = [](const SoftOverlong& options) { options.make({}); };
  EXPECT_ERROR(make({}), ConfigError, "bad-config", "got none");
  EXPECT_ERROR(make({.soft_max_length = 8, .soft_cache_length = 8}), ConfigError, "bad-config",
               "expected between 1 and soft_max_length - 1 (7), got 8");
  EXPECT_ERROR(make({.soft_cache_length = 0}), ConfigError, "bad-config", "got 0");
}

TEST(ReactFormat, WantsThoughtsAnActionAndItsInput) {
  const auto react = [](std::string_view text) {
    return score_one(*ReactFormat().make({}), {.completion = text});
  };
  EXPECT_EQ(react("<think>a</think>Action: search\nAction Input: {}"), 1.0);
  EXPECT_EQ(react("<think>a</think> \nAction:Action Input:"), 1.0);
  EXPECT_EQ(react("<think>a</think>b</think>Action: c Action Input: d\nand more"), 1.0);
  EXPECT_EQ(react(" <think>a</think>Action: b Action Input: c"), 0.0);
  EXPECT_EQ(react("<think>a</think>so Action: b Action Input: c"), 0.0);
  EXPECT_EQ(react("<think>a</think>Action Input: c"), 0.0);
  EXPECT_EQ(react("<think>Action: b Action Input: c</think>"), 0.0);
}

TEST(Cosine, FollowsHalfACosineAndStaysAtItsEnd) {
  const Cosine options{.cosine_max_len = 100};
  EXPECT_EQ(cosine_of(0, "\\boxed{42}", options), 1.0);
  EXPECT_NEAR(cosine_of(50, "\\boxed{42}", options), 0.75, 1e-15);
  EXPECT_EQ(cosine_of(100, "\\boxed{42}", options), 0.5);
  EXPECT_EQ(cosine_of(0, "\\boxed{41}", options), -0.5);
  EXPECT_EQ(cosine_of(100, "\\boxed{41}", options), 0.0);
  // ms-swift's curve turns back there.
  EXPECT_EQ(cosine_of(200, "\\boxed{42}", options), 0.5);
  EXPECT_EQ(cosine_of(250, "\\boxed{41}", options), 0.0);
}

TEST(Cosine, TakesTheCompletionsLimitAsLongestLength) {
  EXPECT_EQ(cosine_of(64, "\\boxed{42}", {}), 0.5);
  EXPECT_GT(cosine_of(63, "\\boxed{42}", {}), 0.5);
}

TEST(Cosine, NeedsASolutionAndALength) {
  const auto cosine = Cosine().make({});
  EXPECT_EQ(cosine->needed_column(), "solution");
  EXPECT_ERROR(cosine->check({{"solution", nullptr}}, "rows:1"), FormatError, "bad-row",
               "for the reward cosine, got null");
  const Json columns = {{"solution", "42"}};
  const RewardInput input{.completion = "\\boxed{42}", .columns = &columns};
  EXPECT_EQ(cosine->score({&input, 1}, {}), (std::vector<std::optional<double>>{std::nullopt}));
}

TEST(Repetition, CountsWordsThatAreSaidAgain) {
  EXPECT_EQ(repetition_of(""), 0.0);
  EXPECT_EQ(repetition_of("a b"), 0.0);
  EXPECT_EQ(repetition_of("a b c d"), 0.0);
  EXPECT_FALSE(std::signbit(repetition_of("a b c d")));
  EXPECT_EQ(repetition_of("a b c A\n B  C"), -0.25);
  EXPECT_EQ(repetition_of("a a a a", {.repetition_n_grams = 1}), -0.75);
  EXPECT_EQ(repetition_of("ab c a bc", {.repetition_n_grams = 2}), 0.0);
  EXPECT_EQ(repetition_of("a a a", {.repetition_n_grams = 1, .repetition_max_penalty = -3.0}),
            -2.0);
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
  const auto accuracy = make_reward("accuracy", {}, {});
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
  RewardOptions options{.reward_funcs = {"format", "accuracy", "soft_overlong"},
                        .reward_weights = {1, 2, 4}};
  std::get<SoftOverlong>(options.builtin).soft_cache_length = 4;
  const Rewarder rewarder(options, {.max_completion_length = 8});
  const Json columns = {{"solution", "1"}};
  const std::vector<int64_t> ids(6, 1);
  const RewardInput inputs[] = {
      {.completion = "<think></think><answer>1</answer>", .token_ids = ids, .columns = &columns},
      {.completion = "\\boxed{1}", .columns = &columns}};
  const auto values = rewarder.score(inputs, {});
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
  EXPECT_EQ(make_reward("accuracy", {}, {})->score(inputs, {}),
            (std::vector<std::optional<double>>{1.0, 0.0, 0.0}));
  EXPECT_TRUE(make_reward("accuracy", {}, {})->score({}, {}).empty());
}

}  // namespace
}  // namespace lockstep::reward
