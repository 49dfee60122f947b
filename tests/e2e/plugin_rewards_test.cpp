// Rewards in Python in a training, through the whole program: ms-swift's plugins, TRL's functions.
// SPDX-License-Identifier: Apache-2.0
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/judged_run.h"
#include "tests/support/source_dir.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

const fs::path kPlugins = source_dir() / "tests" / "plugin_host" / "plugins";

class PluginRewards : public JudgedRun {
 protected:
  static void SetUpTestSuite() {
    JudgedRun::SetUpTestSuite();
    std::vector<Json> rows;
    for (int i = 0; i < 12; ++i)
      rows.push_back({{"prompt", "Say " + std::to_string(i)}, {"ground_truth", std::to_string(i)}});
    write_rows(*shared_, "trl.jsonl", rows);
  }
  /// A plugin with one reward, "own", whose call is this.
  std::string plugin(const std::string& body) const {
    return folder_
        .write("own_plugin.py",
               "import time\nfrom swift.rewards import ORM, orms\n\n\nclass Own(ORM):\n\n"
               "    def __call__(self, completions, **kwargs):\n" +
                   body + "\n\n\norms['own'] = Own\n")
        .string();
  }
};

TEST_F(PluginRewards, APluginOfMsSwiftJudgesTheCompletionsOfATraining) {
  const ProgramResult result =
      run_well(grpo("sums.jsonl", {"--external_plugins", (kPlugins / "sums_plugin.py").string(),
                                   "--reward_funcs", "right_digit", "soft_overlong",
                                   "--soft_cache_length", "8", "--plugin_workers", "2"}));
  EXPECT_THAT(result.err, AllOf(HasSubstr("rewards from there: right_digit"),
                                HasSubstr("plugins: a plugin may print")));
  const Json texts = logged("completion"), solutions = logged("solution"),
             values = logged("RightDigit");
  ASSERT_EQ(texts.size(), 16u);
  for (size_t i = 0; i < texts.size(); ++i) {
    const bool holds =
        texts[i].get<std::string>().find(solutions[i].get<std::string>()) != std::string::npos;
    EXPECT_EQ(values[i], holds ? 1 : 0);
  }
  EXPECT_TRUE(log()[0].contains("rewards/right_digit/mean"));
  EXPECT_EQ(log()[0]["rewards/right_digit/mean"], log()[0]["rewards/RightDigit/mean"]);
  EXPECT_EQ(log()[1]["rewards/right_digit/failures"], 0);
}

TEST_F(PluginRewards, AFunctionOfTrlLogsColumnsAndMetrics) {
  const std::string functions = (kPlugins / "trl_rewards.py").string();
  run_well(grpo("trl.jsonl", {"--reward_funcs", functions + ":logging_reward_func",
                              "late=" + functions + ":growing", "--save_strategy", "no"}));
  const Json golden = logged("golden_answer"), extracted = logged("extracted_answer"),
             late = logged("late");
  ASSERT_EQ(golden.size(), 16u);
  for (size_t i = 0; i < golden.size(); ++i) {
    EXPECT_EQ(extracted[i], "[none]");
    EXPECT_EQ(late[i], i < 8 ? 0 : 0.5);
    EXPECT_EQ(golden[i], golden[i - i % 4]);
  }
  EXPECT_EQ(log()[1]["accuracy"], 0);
  EXPECT_EQ(log()[1]["rewards/late/mean"], 0.5);
}

// A call is for the completions of one prompt.
TEST_F(PluginRewards, AFailureEndsTheRowsOfOneCall) {
  const std::string file = plugin(
      "        if kwargs['prompt_id'][0].endswith('-1'):\n"
      "            raise RuntimeError('no ' + kwargs['solution'][0])\n"
      "        return [float(len(kwargs['response_token_ids'][i])) for i in range(4)]");
  const ProgramResult result =
      run_well(grpo("sums.jsonl", {"--external_plugins", file, "--reward_funcs", "own",
                                   "--save_strategy", "no"}));
  EXPECT_THAT(result.err,
              AllOf(HasSubstr("warning: the reward own has failed"),
                    HasSubstr(file + ":9: RuntimeError: no "), HasSubstr("sums.jsonl:")));
  const Json values = logged("Own"), ids = logged("token_ids");
  ASSERT_EQ(values.size(), 16u);
  for (size_t i = 0; i < 16; ++i)
    EXPECT_EQ(values[i], i % 8 < 4 ? Json(static_cast<double>(ids[i].size())) : Json()) << i;
  EXPECT_EQ(log()[1]["rewards/own/failures"], 8);
}

TEST_F(PluginRewards, ACallThatHangsIsEndedAndTheNextOneIsAnswered) {
  const std::string file = plugin(
      "        if kwargs['prompt_id'][0] == 'prompt-0-0':\n"
      "            time.sleep(1000)\n"
      "        return [1.0] * 4");
  const Arguments more = {"--external_plugins", file, "--reward_funcs",  "own",
                          "--reward_timeout",   "1",  "--save_strategy", "no"};
  const ProgramResult result = run_well(grpo("sums.jsonl", more));
  EXPECT_THAT(result.err, HasSubstr("expected an answer within 1 s, got none"));
  const Json values = logged("Own");
  for (size_t i = 0; i < 16; ++i) EXPECT_EQ(values[i], i < 4 ? Json() : Json(1.0)) << i;
  const ProgramResult limited = run_program(
      grpo("sums.jsonl", more + Arguments{"--reward_max_failures", "3", "--overwrite", "true"}));
  EXPECT_EQ(limited.exit_code, 3);
  EXPECT_THAT(limited.err, HasSubstr("error[reward-failed]: reward own: expected at most 3"));
}

TEST_F(PluginRewards, WhatIsWrongIsSaidBeforeTheRunBegins) {
  const auto refused = [&](const Arguments& more, const std::string& words) {
    const ProgramResult result = run_program(grpo("sums.jsonl", more));
    EXPECT_EQ(result.exit_code, 2) << words;
    EXPECT_THAT(result.err, HasSubstr(words));
    EXPECT_FALSE(fs::exists(folder_ / "run"));
  };
  refused({"--external_plugins", (kPlugins / "broken_plugin.py").string(), "--reward_funcs", "x"},
          "broken_plugin.py:6: ModuleNotFoundError: No module named 'no_such_package_of_all'");
  refused({"--external_plugins", (kPlugins / "old_plugin.py").string(), "--reward_funcs", "x"},
          "both_formats, length, math_verify");
  refused({"--reward_funcs", "math_verify", "--plugin_python", "/no/python"},
          "expected to start /no/python");
  refused({"--external_plugins", (folder_ / "nowhere.py").string(), "--reward_funcs", "x"},
          "nowhere.py");
}

TEST_F(PluginRewards, AResumeRefusesAnotherPlugin) {
  const std::string file = plugin("        return [1.0] * 4");
  const Arguments more = {"--external_plugins", file, "--reward_funcs", "own"};
  run_well(grpo("sums.jsonl", more));
  const Arguments resume = more + Arguments{"--resume_from_checkpoint", "last"};
  run_well(grpo("sums.jsonl", resume));
  plugin("        return [2.0] * 4");
  const ProgramResult result = run_program(grpo("sums.jsonl", resume));
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("external_plugins"));
}

TEST_F(PluginRewards, NothingElseStartsPython) {
  const ProgramResult result =
      run_well(grpo("sums.jsonl", {"--reward_funcs", "format", "--save_strategy", "no",
                                   "--plugin_python", "/no/python"}));
  EXPECT_THAT(result.err, Not(HasSubstr("plugins:")));
}

}  // namespace
}  // namespace lockstep::testing
