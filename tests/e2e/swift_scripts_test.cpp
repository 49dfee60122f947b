// The flags of ms-swift's example scripts of GRPO: a script that ran keeps running, and what its
// user looks at in the two logs is there. tools/parity/swift_scripts.py runs the scripts themselves
// and writes the list.
// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"
#include "tests/support/json_lines.h"
#include "tests/support/source_dir.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// One script: its model's family, its flags but for those that name files and servers, and the
/// flag by which it is refused, if it is.
struct Script {
  std::string name, family, refused;
  Arguments flags;
};

std::vector<Script> all_scripts() {
  std::vector<Script> scripts;
  for_each_json_line(
      source_dir() / "tests/data/flags/swift_scripts.jsonl", [&](int64_t, const Json& row) {
        const Json& refused = row["refused"];
        scripts.push_back({.name = row["script"],
                           .family = row["family"],
                           .refused = refused.is_null() ? "" : refused.get<std::string>(),
                           .flags = row["flags"].get<Arguments>()});
      });
  return scripts;
}

class SwiftScripts : public ::testing::Test {
 protected:
  ProgramResult run(const Script& script, const fs::path& output) {
    if (!fs::exists(folder_ / script.family))
      new_model(folder_, script.family, {"--like", script.family, "--torch_dtype", "bfloat16"});
    // A script that renames a column has rows with that one.
    const bool renames =
        std::find(script.flags.begin(), script.flags.end(), "--columns") != script.flags.end();
    Json row = chat_row("What is 3 + 4?");
    row[renames ? "answer" : "solution"] = "7";
    // As many as a generation batch of the largest script has prompts.
    const std::string rows =
        write_rows(folder_, renames ? "answers.jsonl" : "rows.jsonl", std::vector<Json>(128, row));
    return run_program(Arguments{"grpo", "--model", (folder_ / script.family).string(), "--dataset",
                                 rows, "--output_dir", output.string(), "--max_steps", "1",
                                 "--max_completion_length", "4", "--threads", "1"} +
                       script.flags);
  }

  TempDir folder_;
};

/// What ms-swift logs at every step of GRPO, and its columns of completions.
void expect_logs(const fs::path& run, const Arguments& flags) {
  const std::vector<Json> lines = read_rows(run / "logging.jsonl");
  ASSERT_GE(lines.size(), 2u);
  std::vector<std::string> keys = {"loss",
                                   "grad_norm",
                                   "learning_rate",
                                   "epoch",
                                   "reward",
                                   "reward_std",
                                   "frac_reward_zero_std",
                                   "completions/mean_length",
                                   "completions/min_length",
                                   "completions/max_length",
                                   "completions/clipped_ratio",
                                   "global_step/max_steps",
                                   "elapsed_time",
                                   "remaining_time",
                                   "memory(GiB)",
                                   "train_speed(s/it)"};
  std::vector<std::string> columns = {"step", "prompt", "completion", "advantages"};
  const auto has = [&](const char* word) {
    return std::find(flags.begin(), flags.end(), word) != flags.end();
  };
  for (const auto& [flag, name] : {std::pair{"accuracy", "MathAccuracy"},
                                   {"format", "Format"},
                                   {"react_format", "ReActFormat"}})
    if (has(flag)) {
      keys.push_back(std::string("rewards/") + name + "/mean");
      keys.push_back(std::string("rewards/") + name + "/std");
      columns.emplace_back(name);
    }
  for (const std::string& key : keys) EXPECT_TRUE(lines[0].contains(key)) << key;
  for (const char* key :
       {"last_model_checkpoint", "best_model_checkpoint", "best_metric", "global_step"})
    EXPECT_TRUE(lines.back().contains(key)) << key;
  const std::vector<Json> rounds = read_rows(run / "completions.jsonl");
  ASSERT_FALSE(rounds.empty());
  for (const std::string& column : columns) {
    ASSERT_TRUE(rounds[0].contains(column)) << column;
    EXPECT_EQ(rounds[0][column].size(), rounds[0]["step"].size()) << column;
  }
  EXPECT_TRUE(rounds[0]["step"][0].is_string());
}

TEST_F(SwiftScripts, RunWithTheirFlagsAndLogWhatTheirUsersRead) {
  int64_t count = 0;
  for (const Script& script : all_scripts()) {
    if (!script.refused.empty()) continue;
    SCOPED_TRACE(script.name);
    const fs::path output = folder_ / std::to_string(count++);
    const ProgramResult result = run(script, output);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    if (result.exit_code == 0) expect_logs(output, script.flags);
  }
  EXPECT_GE(count, 30);
}

TEST_F(SwiftScripts, AreRefusedByNameWhereOneAsksForWhatIsNotThere) {
  int64_t count = 0;
  for (const Script& script : all_scripts()) {
    if (script.refused.empty()) continue;
    SCOPED_TRACE(script.name);
    const ProgramResult result = run(script, folder_ / "refused");
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.err, AllOf(HasSubstr("refused-flag"), HasSubstr(script.refused + ":")));
    EXPECT_FALSE(fs::exists(folder_ / "refused"));
    ++count;
  }
  EXPECT_GE(count, 3);
}

}  // namespace
}  // namespace lockstep::testing
