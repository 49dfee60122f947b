// Flags: types, ranges, order, errors, help and args.json.
// SPDX-License-Identifier: Apache-2.0
#include "cli/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "cli/flag_classes.h"
#include "cli/suggestion.h"
#include "tests/support/expect_error.h"

namespace lockstep::cli {

enum class Shade : int { kLight, kDark };
std::span<const EnumName<Shade>> enum_names(Shade) {
  static constexpr EnumName<Shade> kNames[] = {{Shade::kLight, "light"}, {Shade::kDark, "dark"}};
  return kNames;
}

namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Arguments = std::vector<std::string>;

struct NumberOptions {
  int64_t count = 3;
  double share = 0.5;
  std::optional<double> ceiling;
  std::optional<int64_t> limit = 7;
  std::vector<double> weights;
  std::vector<int64_t> ports = {8000};

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("count", count, "How many.", Range::at_least(1));
    visit("share", share, "A part.", Range::left_open(0, 1));
    visit("ceiling", ceiling, "At most this.");
    visit("limit", limit, "Or this.", Range::above(0));
    visit("weights", weights, "One a reward.");
    visit("ports", ports, "One a server.", Range::between(1, 65535));
  }
};

struct TextOptions {
  std::string name;
  bool loud = false;
  std::optional<bool> thinking;
  std::vector<std::string> files;
  std::optional<std::string> system;
  Shade shade = Shade::kDark;
  std::optional<Shade> other;
  Json columns;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("name", name, "What it is called.");
    visit("loud", loud, "Says more.");
    visit("thinking", thinking, "Thinks or not.");
    visit("files", files, "Rows.");
    visit("system", system, "First message.");
    visit("shade", shade, "Light or dark.");
    visit("other", other, "Another shade.");
    visit("columns", columns, "Old names to new.");
  }
};

class Flags : public ::testing::Test {
 protected:
  Flags() : flags("try", "Tries flags.") {
    flags.add_group("numbers", numbers);
    flags.add_group("texts", texts);
  }
  ParseResult parse(const Arguments& arguments) { return flags.parse(arguments); }

  NumberOptions numbers;
  TextOptions texts;
  FlagSet flags;
};

TEST_F(Flags, ReadsEachTypeFromTheCommandLine) {
  parse({"--count",   "12",
         "--share",   "1e-3",
         "--ceiling", "-2.5",
         "--weights", "1",
         "-0.5",      "--ports",
         "80",        "81",
         "--name",    "a b",
         "--loud",    "--thinking",
         "False",     "--files",
         "x.jsonl",   "y.jsonl#9",
         "--shade",   "light",
         "--other",   "dark",
         "--columns", R"({"q": "query"})"});
  EXPECT_EQ(numbers.count, 12);
  EXPECT_EQ(numbers.share, 1e-3);
  EXPECT_EQ(numbers.ceiling, -2.5);
  EXPECT_THAT(numbers.weights, ElementsAre(1, -0.5));
  EXPECT_THAT(numbers.ports, ElementsAre(80, 81));
  EXPECT_EQ(texts.name, "a b");
  EXPECT_TRUE(texts.loud);
  EXPECT_EQ(texts.thinking, false);
  EXPECT_THAT(texts.files, ElementsAre("x.jsonl", "y.jsonl#9"));
  EXPECT_EQ(texts.shade, Shade::kLight);
  EXPECT_EQ(texts.other, Shade::kDark);
  EXPECT_EQ(texts.columns, (Json{{"q", "query"}}));
}

TEST_F(Flags, ALaterValueWinsAndReplacesAList) {
  parse({"--count", "1", "--files", "a", "b", "--count=9", "--files", "c", "--loud", "true",
         "--loud", "false"});
  EXPECT_EQ(numbers.count, 9);
  EXPECT_THAT(texts.files, ElementsAre("c"));
  EXPECT_FALSE(texts.loud);
}

TEST_F(Flags, AnEqualsSignBindsAnyText) {
  parse({"--name=--x=y", "--system="});
  EXPECT_EQ(texts.name, "--x=y");
  EXPECT_EQ(texts.system, "");
}

TEST_F(Flags, NoneUnsetsAnOptional) {
  parse({"--limit", "None", "--thinking", "true", "--thinking", "null", "--other", "none"});
  EXPECT_EQ(numbers.limit, std::nullopt);
  EXPECT_EQ(texts.thinking, std::nullopt);
  EXPECT_EQ(texts.other, std::nullopt);
}

TEST_F(Flags, NamesTheNearestFlagForAnUnknownOne) {
  EXPECT_ERROR(parse({"--cuont", "1"}), ConfigError, "unknown-flag", "did you mean --count?");
  EXPECT_ERROR(parse({"--zzzzzzzzzzzz", "1"}), ConfigError, "unknown-flag", "lockstep try --help");
  EXPECT_ERROR(parse({"--out-put", "1"}), ConfigError, "unknown-flag",
               "--out-put: expected a flag of lockstep try");
}

TEST_F(Flags, SaysWhichCommandHasAFlag) {
  EXPECT_ERROR(parse({"--num_generations", "8"}), ConfigError, "unknown-flag",
               "(lockstep grpo has it)");
}

TEST_F(Flags, SaysTypeRangeAndChoiceOfABadValue) {
  EXPECT_ERROR(parse({"--count", "0"}), ConfigError, "bad-flag",
               "--count: expected a whole number >= 1, got '0'");
  EXPECT_ERROR(parse({"--count", "1.5"}), ConfigError, "bad-flag", "got '1.5'");
  EXPECT_ERROR(parse({"--count", "99999999999999999999"}), ConfigError, "bad-flag", "whole number");
  EXPECT_ERROR(parse({"--count"}), ConfigError, "bad-flag", "got nothing");
  EXPECT_ERROR(parse({"--share", "0"}), ConfigError, "bad-flag", "a number in (0, 1], got '0'");
  EXPECT_ERROR(parse({"--share", "nan"}), ConfigError, "bad-flag", "got 'nan'");
  EXPECT_ERROR(parse({"--ceiling", "inf"}), ConfigError, "bad-flag", "a number, got 'inf'");
  EXPECT_ERROR(parse({"--loud", "yes"}), ConfigError, "bad-flag", "true or false, got 'yes'");
  EXPECT_ERROR(parse({"--shade", "grey"}), ConfigError, "bad-flag",
               "one of light, dark, got 'grey'");
  EXPECT_ERROR(parse({"--name", "a", "b"}), ConfigError, "bad-flag",
               "expected one value, got 'a b'");
  EXPECT_ERROR(parse({"--ports", "80", "0"}), ConfigError, "bad-flag",
               "whole numbers in [1, 65535], got '80 0'");
  EXPECT_ERROR(parse({"--columns", "[1]"}), ConfigError, "bad-flag",
               "a dictionary as a JSON object, got '[1]'");
  EXPECT_ERROR(parse({"--columns", "{\"a\":"}), ConfigError, "bad-flag",
               "a dictionary as a JSON object");
}

TEST_F(Flags, RefusesValuesWithoutAFlag) {
  EXPECT_ERROR(parse({"train.jsonl"}), ConfigError, "unexpected-argument", "train.jsonl");
}

TEST_F(Flags, AsksForARequiredFlag) {
  flags.require("name");
  EXPECT_ERROR(parse({"--count", "1"}), ConfigError, "missing-flag",
               "--name: expected one value, got nothing");
  EXPECT_NO_THROW(parse({"--name", "x"}));
}

TEST_F(Flags, TellsWhatWasSet) {
  parse({"--count", "3", "--share=1"});
  EXPECT_TRUE(flags.is_set("count"));
  EXPECT_FALSE(flags.is_set("name"));
  EXPECT_EQ(flags.where_of("share"), "--share");
  EXPECT_EQ(flags.changed(), "share=1.0");
}

TEST_F(Flags, ArgsHoldEveryOptionAndReadBackTheSame) {
  parse({"--share", "0.1", "--files", "a b", "c", "--columns", R"({"x": "y"})", "--limit", "none"});
  const Json args = flags.to_json();
  EXPECT_EQ(args["share"], 0.1);
  EXPECT_EQ(args["files"], (Json{"a b", "c"}));
  EXPECT_EQ(args["limit"], nullptr);
  EXPECT_EQ(args["shade"], "dark");
  EXPECT_EQ(args.size(), 14u);
}

TEST_F(Flags, HelpHasGroupsDefaultsRangesAndOneLineAFlag) {
  flags.require("name");
  const std::string help = flags.help();
  EXPECT_THAT(help, HasSubstr("usage: lockstep try [config.yaml|config.json]"));
  EXPECT_THAT(
      help,
      HasSubstr("\nnumbers\n  --count INTEGER                     How many. [default 3, >= 1]\n"));
  EXPECT_THAT(
      help,
      HasSubstr("\ntexts\n  --name TEXT                         What it is called. [required]\n"));
  EXPECT_THAT(help,
              HasSubstr("  --shade light|dark                  Light or dark. [default dark]\n"));
  EXPECT_THAT(help,
              HasSubstr("  --ceiling NUMBER                    At most this. [default unset]\n"));
  EXPECT_TRUE(parse({"--cuont", "--help"}).help);
}

TEST_F(Flags, ANameInTwoGroupsIsOurBug) {
  NumberOptions again;
  EXPECT_THROW(flags.add_group("again", again), InternalError);
}

struct WordOptions {
  double learning_rate = 1;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("learning_rate", learning_rate, "How fast.");
  }
};

/// transformers' parser knows each flag in both spellings.
TEST(DashedFlags, AreReadWithUnderscores) {
  WordOptions words;
  FlagSet flags("try", "Tries flags.");
  flags.add_group("words", words);
  flags.parse(Arguments{"--learning-rate", "7"});
  EXPECT_EQ(words.learning_rate, 7);
  flags.parse(Arguments{"--learning-rate=8"});
  EXPECT_EQ(words.learning_rate, 8);
  EXPECT_ERROR(flags.parse(Arguments{"--learning-date", "8"}), ConfigError, "unknown-flag",
               "--learning-date: expected a flag of lockstep try, got learning-date (did you mean "
               "--learning_rate?)");
  EXPECT_ERROR(flags.parse(Arguments{"--num-generations", "8"}), ConfigError, "unknown-flag",
               "got num-generations (lockstep grpo has it)");
  // Those of other trainers, too.
  flags.use_classes(grpo_flag_classes());
  EXPECT_EQ(flags.parse(Arguments{"--push-to-hub"}).notices.size(), 1U);
}

TEST(NearestName, IsTheOneWithTheFewestEdits) {
  const std::vector<std::string> names = {"learning_rate", "lr_scheduler_type", "beta",
                                          "max_steps"};
  EXPECT_EQ(nearest_name("learnig_rate", names), "learning_rate");
  EXPECT_EQ(nearest_name("maxsteps", names), "max_steps");
  EXPECT_EQ(nearest_name("bta", names), "beta");
  EXPECT_EQ(nearest_name("reward_funcs", names), "");
}

const std::vector<std::string> kGrpoFlags = {"model",
                                             "dataset",
                                             "output_dir",
                                             "per_device_train_batch_size",
                                             "generation_batch_size",
                                             "gradient_accumulation_steps",
                                             "num_generations",
                                             "num_iterations",
                                             "num_train_epochs",
                                             "max_steps",
                                             "learning_rate",
                                             "min_learning_rate",
                                             "lr_scheduler_type",
                                             "warmup_steps",
                                             "warmup_ratio",
                                             "max_grad_norm",
                                             "beta",
                                             "epsilon",
                                             "epsilon_high",
                                             "max_length",
                                             "max_completion_length",
                                             "temperature",
                                             "save_steps",
                                             "eval_steps",
                                             "logging_steps",
                                             "reward_funcs",
                                             "threads",
                                             "torch_dtype",
                                             "seed",
                                             "columns"};

const std::pair<const char*, const char*> kMeant[] = {
    {"batch_size", "per_device_train_batch_size"},
    {"train_batch_size", "per_device_train_batch_size"},
    {"per_device_batch_size", "per_device_train_batch_size"},
    {"Batch-Size", "per_device_train_batch_size"},
    {"group_size", "num_generations"},
    {"n", "num_generations"},
    {"n_samples_per_prompt", "num_generations"},
    {"max_tokens", "max_completion_length"},
    {"max_new_tokens", "max_completion_length"},
    {"max_prompt_len", "max_length"},
    {"epochs", "num_train_epochs"},
    {"steps", "max_steps"},
    {"kl_coef", "beta"},
    {"clip_ratio", "epsilon"},
    {"clip_ratio_high", "epsilon_high"},
    {"lr", "learning_rate"},
    {"lr_scheduler", "lr_scheduler_type"},
    {"lr_warmup_steps", "warmup_steps"},
    {"warmup_proportion", "warmup_ratio"},
    {"grad_clip", "max_grad_norm"},
    {"grad_accumulation_steps", "gradient_accumulation_steps"},
    {"save_every", "save_steps"},
    {"output", "output_dir"},
    {"data", "dataset"},
    {"model_path", "model"},
    {"rewards", "reward_funcs"},
    {"num_threads", "threads"},
    {"precision", "torch_dtype"},
    {"random_seed", "seed"},
    {"temp", "temperature"},
    {"max_compl", "max_completion_length"},
    // Slips of the finger stay what they are.
    {"learning_rat", "learning_rate"},
    {"beat", "beta"},
    {"--epsilonn", "epsilon"},
    {"reward_fucns", "reward_funcs"},
    {"colums", "columns"},
    {"zzzzzzzzzzzz", ""}};

TEST(Suggestion, MeaningGoesBeforeSpelling) {
  for (const auto& [word, expected] : kMeant)
    EXPECT_EQ(suggest_name(word, kGrpoFlags), expected) << word;
  const std::vector<std::string> infer = {
      "model",       "dataset",   "result_path", "max_new_tokens", "num_return_sequences",
      "temperature", "stop_words"};
  EXPECT_EQ(suggest_name("n", infer), "num_return_sequences");
  EXPECT_EQ(suggest_name("max_tokens", infer), "max_new_tokens");
  EXPECT_EQ(suggest_name("max_completion_length", infer), "max_new_tokens");
  EXPECT_EQ(suggest_name("output_dir", infer), "result_path");
  EXPECT_EQ(suggest_name("stop", infer), "stop_words");
  EXPECT_EQ(same_meaning("stop_word", infer), "");
  const std::vector<std::string> commands = {"grpo", "sft", "infer", "score", "new-model"};
  EXPECT_EQ(suggest_name("rlhf", commands), "grpo");
  EXPECT_EQ(suggest_name("chat", commands), "infer");
  EXPECT_EQ(suggest_name("new_model", commands), "new-model");
}

}  // namespace
}  // namespace lockstep::cli
