// Rewards of the user's own in a training and in lockstep reward, through the whole program.
// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/judged_run.h"
#include "tests/e2e/training.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class OwnRewards : public JudgedRun {
 protected:
  Arguments grpo(const Arguments& more) const {
    return JudgedRun::grpo("sums.jsonl", Arguments{"--save_strategy", "no"} + more);
  }
  /// A program in Python that answers each line with an expression of `row`; `n` counts its lines.
  std::string script(const std::string& name, const std::string& expression) const {
    const std::string text =
        "import json, os, sys, time\n"
        "for n, line in enumerate(sys.stdin):\n"
        "    row = json.loads(line)\n"
        "    print(json.dumps(" +
        expression + "), flush=True)\n";
    return "program:python3 " + folder_.write(name, text).string();
  }
  /// Whether a Python runs with this text in its command line.
  static bool is_there(const std::string& text) {
    for (const auto& entry : fs::directory_iterator("/proc")) {
      const std::string name = entry.path().filename();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      std::ifstream file(entry.path() / "cmdline");
      // The process may be gone by now, which is no error of getline.
      std::string line;
      std::getline(file, line, '\n');
      const std::string program = line.substr(0, line.find('\0'));
      if (program.ends_with("python3") && line.find(text) != std::string::npos) return true;
    }
    return false;
  }
  static bool is_gone_soon(const std::string& text) {
    for (int i = 0; i < 500 && is_there(text); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return !is_there(text);
  }
};

TEST_F(OwnRewards, AProgramJudgesTheCompletionsOfATraining) {
  const std::string length = script("length.py", "{'reward': len(row['completion']) / 100}"),
                    step =
                        script("steps.py", "row['step'] if row['columns']['solution'] else None");
  run_well(grpo({"--reward_funcs", length, "late=" + step, "--reward_weights", "1", "0.5"}));
  const Json texts = logged("completion"), lengths = logged("length"), late = logged("late");
  ASSERT_EQ(texts.size(), 16u);
  for (size_t i = 0; i < texts.size(); ++i) {
    // Python counts characters.
    int64_t characters = 0;
    for (const char c : texts[i].get<std::string>()) characters += (c & 0xC0) != 0x80;
    EXPECT_EQ(lengths[i], static_cast<double>(characters) / 100);
    EXPECT_EQ(late[i], i < 8 ? 0 : 1);
  }
  const std::vector<Json> log = read_rows(folder_ / "run" / "logging.jsonl");
  EXPECT_GT(log[0]["rewards/length/mean"], 0);
  EXPECT_EQ(log[1]["rewards/late/mean"], 1);
  EXPECT_EQ(log[1]["rewards/length/failures"], 0);
  EXPECT_NEAR(log[1]["reward"].get<double>(), log[1]["rewards/length/mean"].get<double>() + 0.5,
              1e-7);
  EXPECT_TRUE(is_gone_soon((folder_ / "length.py").string()));
}

TEST_F(OwnRewards, AProgramThatFailsNowAndThenEndsItsRowsOnly) {
  const std::string flaky = script("flaky.py", "1 if n % 3 else os._exit(3)");
  const ProgramResult result =
      run_well(grpo({"--reward_funcs", flaky, "soft_overlong", "--soft_cache_length", "11"}));
  EXPECT_THAT(result.err, AllOf(HasSubstr("warning: the reward flaky has failed"),
                                HasSubstr("sums.jsonl:"), HasSubstr("exit code 3")));
  int absent = 0;
  for (const Json& value : logged("flaky")) absent += value.is_null();
  EXPECT_GT(absent, 0);
  const std::vector<Json> log = read_rows(folder_ / "run" / "logging.jsonl");
  EXPECT_EQ(log[1]["rewards/flaky/failures"], absent);
}

TEST_F(OwnRewards, TooManyFailuresEndTheRunWithOneLine) {
  const ProgramResult result = run_program(
      grpo({"--reward_funcs", "program:exit 7", "--reward_max_failures", "3", "--quiet"}));
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.err, AllOf(HasSubstr("error[reward-failed]: reward exit: expected at most 3 "
                                          "completions that it fails at"),
                                HasSubstr("exit code 7")));
}

TEST_F(OwnRewards, AProgramThatHangsIsEndedAtItsDeadline) {
  const std::string hang = script("hang.py", "time.sleep(1000)");
  const ProgramResult result = run_program(
      grpo({"--reward_funcs", hang, "--reward_timeout", "0.5", "--reward_max_failures", "1"}));
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.err, HasSubstr("expected an answer within 0.5 s, got none"));
  EXPECT_TRUE(is_gone_soon((folder_ / "hang.py").string()));
}

// The first Ctrl-C lets the step end; the second one ends the run at once, and its programs too.
TEST_F(OwnRewards, CtrlCEndsProgramsThatHang) {
  const std::string hang = script("stuck.py", "time.sleep(1000)"),
                    file = (folder_ / "stuck.py").string();
  RunningProgram program(grpo({"--reward_funcs", hang, "--save_strategy", "steps"}));
  ASSERT_TRUE(wait_until(program, [&] { return is_there(file); }));
  program.send(SIGINT);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_TRUE(program.is_running());
  program.send(SIGINT);
  EXPECT_EQ(program.wait().exit_code, 130);
  EXPECT_TRUE(is_gone_soon(file));
}

TEST_F(OwnRewards, OneCtrlCIsEnoughWhereNothingIsSaved) {
  const std::string hang = script("stuck.py", "time.sleep(1000)"),
                    file = (folder_ / "stuck.py").string();
  RunningProgram program(grpo({"--reward_funcs", hang, "--save_on_interrupt", "false"}));
  ASSERT_TRUE(wait_until(program, [&] { return is_there(file); }));
  program.send(SIGINT);
  EXPECT_EQ(program.wait().exit_code, 130);
  EXPECT_TRUE(is_gone_soon(file));
}

TEST_F(OwnRewards, JudgeRecordedCompletions) {
  std::vector<Json> rows;
  for (int i = 0; i < 600; ++i)
    rows.push_back({{"solution", std::to_string(i)},
                    {"completions", {std::to_string(i), std::to_string(i + 1)}}});
  const std::string same =
      script("same.py", "float(row['completion'] == row['columns']['solution'])");
  const ProgramResult result =
      run_well({"reward", "--dataset", write_rows(folder_, "rows.jsonl", rows), "--reward_funcs",
                same, "--reward_workers", "3", "--output", (folder_ / "out.jsonl").string()});
  EXPECT_THAT(result.out, HasSubstr("same  mean 0.5  spread 0.500208  count 1200"));
  for (const Json& row : read_rows(folder_ / "out.jsonl"))
    EXPECT_EQ(row["rewards"], Json({{{"same", 1.0}}, {{"same", 0.0}}}));
}

// A reward works while other completions are sampled, and nothing depends on when it is done.
TEST_F(OwnRewards, WorkWhileOthersAreSampledAndGiveTheSame) {
  const std::string slow =
      script("slow.py", "(time.sleep(os.urandom(1)[0] / 5000), len(row['completion']))[1]");
  const auto completions_with = [&](const char* workers) {
    run_well(grpo({"--reward_funcs", slow, "--reward_workers", workers, "--max_num_seqs", "4",
                   "--max_completion_length", "200", "--per_device_train_batch_size", "16",
                   "--overwrite", "true"}));
    EXPECT_GT(read_rows(folder_ / "run" / "logging.jsonl")[0]["time/reward_hidden"], 0);
    return slurp(folder_ / "run" / "completions.jsonl");
  };
  const std::string once = completions_with("1");
  EXPECT_TRUE(once == completions_with("3"));
}

TEST_F(OwnRewards, AModelWithoutAHeadThatScoresIsNoRewardModel) {
  const std::string model = (*shared_ / "model").string();
  const ProgramResult result = run_program(grpo({"--reward_model", model}));
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err,
              HasSubstr("error[missing-tensor]: score.weight: expected a checkpoint of a "
                        "sequence classifier"));
  EXPECT_FALSE(fs::exists(folder_ / "run"));
  const ProgramResult missing =
      run_program(grpo({"--reward_model", (folder_ / "nowhere").string()}));
  EXPECT_EQ(missing.exit_code, 2);
  EXPECT_THAT(missing.err, HasSubstr("nowhere"));
}

TEST_F(OwnRewards, LeaveTheKeyOutOfTheRun) {
  run_well(grpo({"--reward_funcs", script("one.py", "1"), "--reward_api_key", "verysecret"}));
  for (const auto& [name, bytes] : tree_of(folder_ / "run"))
    EXPECT_THAT(bytes, Not(HasSubstr("verysecret"))) << name;
}

}  // namespace
}  // namespace lockstep::testing
