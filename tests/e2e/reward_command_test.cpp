// lockstep reward: rows in, rewards out, through the whole program.
// SPDX-License-Identifier: Apache-2.0
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "tests/e2e/program_files.h"
#include "tests/support/json_lines.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class Reward : public ::testing::Test {
 protected:
  std::string write(const std::string& text) { return folder_.write("rows.jsonl", text).string(); }
  ProgramResult run(const std::string& rows, const Arguments& more) {
    fs::remove(folder_ / "out.jsonl");
    return run_program(Arguments{"reward", "--dataset", write(rows)} + more);
  }
  /// The rows that a run with --output wrote.
  std::vector<Json> judged(const std::string& rows, const Arguments& more) {
    const ProgramResult result = run(rows, more + Arguments{"--output", folder_ / "out.jsonl"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    log_ = result.err;
    out_ = result.out;
    return read_rows(folder_ / "out.jsonl");
  }
  void refused(const std::string& rows, const Arguments& more, const std::string& error) {
    const ProgramResult result = run(rows, more + Arguments{"--output", folder_ / "out.jsonl"});
    EXPECT_EQ(result.exit_code, 2) << error;
    EXPECT_THAT(result.err, HasSubstr(error));
    EXPECT_EQ(result.out, "");
    EXPECT_FALSE(fs::exists(folder_ / "out.jsonl"));
  }

  TempDir folder_;
  std::string log_, out_;
};

const Arguments kAccuracy = {"--reward_funcs", "accuracy"};

TEST_F(Reward, JudgesOneCompletionOrAList) {
  const auto rows = judged(
      R"({"messages":[{"role":"user","content":"q"}],"solution":"42","completion":"\\boxed{42}","id":7})"
      "\n"
      R"({"prompt":"q","solution":"42","completions":["\\boxed{41}","<think></think><answer>42</answer>"]})"
      "\n"
      R"({"prompt":[{"role":"user","content":"q"}],"solution":"5","completion":"\\boxed{6}"})",
      {"--reward_funcs", "accuracy", "format", "--reward_weights", "1", "0.5"});
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0]["rewards"], Json({{"accuracy", 1.0}, {"format", 0.0}}));
  EXPECT_EQ(rows[0]["reward"], 1.0);
  // The row stays as it stood.
  EXPECT_EQ(rows[0]["id"], 7);
  EXPECT_EQ(rows[0]["messages"][0]["content"], "q");
  EXPECT_EQ(rows[0]["completion"], "\\boxed{42}");
  EXPECT_EQ(rows[1]["rewards"],
            Json({{{"accuracy", 0.0}, {"format", 0.0}}, {{"accuracy", 1.0}, {"format", 1.0}}}));
  EXPECT_EQ(rows[1]["reward"], Json({0.0, 1.5}));
  EXPECT_EQ(rows[2]["reward"], 0.0);
  EXPECT_EQ(out_,
            "accuracy  mean 0.5  spread 0.57735  count 4\n"
            "format  mean 0.25  spread 0.5  count 4\n"
            "reward  mean 0.625  spread 0.75  count 4\n");
}

TEST_F(Reward, WritesNoRowsWithoutAnOutput) {
  const ProgramResult result =
      run(R"({"solution":"42","completion":"\\boxed{42}"})", kAccuracy + Arguments{"--quiet"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "accuracy  mean 1  spread 0  count 1\nreward  mean 1  spread 0  count 1\n");
  EXPECT_EQ(result.err, "");
}

TEST_F(Reward, TakesColumnsAsATrainingDoes) {
  const std::string row =
      R"({"question":"q","gold":{"is":"42"},"said":"\\boxed{42}","reward_model":{"ground_truth":"43"}})";
  EXPECT_EQ(
      judged(row,
             kAccuracy + Arguments{"--columns",
                                   R"({"gold.is":"solution","said":"completion"})"})[0]["reward"],
      1.0);
  EXPECT_EQ(
      judged(row, kAccuracy + Arguments{"--columns", R"({"said":"completion"})"})[0]["reward"],
      0.0);
  refused(row, kAccuracy, "expected a column completion, completions or responses");
  refused(R"({"question":"q","answer":"42","completion":"\\boxed{42}"})", kAccuracy,
          "--columns '{\"answer\": \"solution\"}'");
}

TEST_F(Reward, KeepsTheDigitsOfNumbers) {
  const std::string digits = "987654321098765432109876543210";
  const std::string row =
      R"({"solution":)" + digits + R"(,"completion":"\\boxed{)" + digits + "}\"}";
  EXPECT_EQ(judged(row, kAccuracy)[0]["reward"], 1.0);
  EXPECT_THAT(read_file(folder_ / "out.jsonl"), HasSubstr("\"solution\":" + digits + ","));
}

// What infer writes is judged as it stands, and its tokens are counted.
TEST_F(Reward, ReadsWhatInferWrites) {
  const auto rows = judged(
      R"({"solution":"7","responses":[{"text":"\\boxed{7}","token_ids":[1,2,3],"logprobs":[0,0,0],)"
      R"("finish_reason":"stop"},{"text":"8","token_ids":[1,2,3,4,5,6],"finish_reason":"length"}]})"
      "\n"
      R"({"solution":"7","completion":"\\boxed{7}","token_ids":[1,2,3,4,5]})"
      "\n"
      R"({"solution":"7","completion":"\\boxed{7}"})",
      {"--reward_funcs", "accuracy", "soft_overlong", "--soft_cache_length", "2",
       "--max_completion_length", "6"});
  EXPECT_EQ(rows[0]["rewards"], Json({{{"accuracy", 1.0}, {"soft_overlong", 0.0}},
                                      {{"accuracy", 0.0}, {"soft_overlong", -1.0}}}));
  EXPECT_EQ(rows[1]["rewards"], Json({{"accuracy", 1.0}, {"soft_overlong", -0.5}}));
  EXPECT_EQ(rows[1]["reward"], 0.5);
  // A length that nobody knows is no reward, and drops out of the sum.
  EXPECT_EQ(rows[2]["rewards"], Json({{"accuracy", 1.0}, {"soft_overlong", nullptr}}));
  EXPECT_EQ(rows[2]["reward"], 1.0);
  EXPECT_THAT(log_, HasSubstr("the reward soft_overlong has no value for 1 of 4 completions"));
  EXPECT_THAT(out_, HasSubstr("soft_overlong  mean -0.5  spread 0.5  count 3"));
}

TEST_F(Reward, RefusesWhatItCannotJudge) {
  const std::string good = R"({"solution":"7","completion":"\\boxed{7}"})";
  refused(good, {"--reward_funcs", "acuracy"}, "expected one of accuracy, format, react_format");
  refused(good, {}, "--reward_funcs");
  refused(good, {"--reward_funcs", "accuracy", "accuracy"}, "expected each reward once");
  refused(good, kAccuracy + Arguments{"--reward_weights", "1", "2"},
          "expected 1 weights, one a reward, got 2");
  refused(good, {"--reward_funcs", "soft_overlong"}, "--soft_cache_length");
  refused(R"({"completion":"\\boxed{7}"})", kAccuracy, "expected a column solution");
  refused(good + "\n" + R"({"solution":"7"})", kAccuracy, "rows.jsonl:2: expected a column comp");
  refused(R"({"solution":"7","completion":7})", kAccuracy,
          "expected text in completion, got number");
  refused(R"({"solution":"7","completions":"a"})", kAccuracy, "expected a list of completions");
  refused(R"({"solution":"7","completions":[]})", kAccuracy, "got an empty one");
  refused(R"({"solution":"7","completions":["a",1]})", kAccuracy, "expected texts in completions");
  refused(R"({"solution":"7","completion":"a","completions":["a"]})", kAccuracy,
          "got completion and completions");
  refused(R"({"solution":[7],"completion":"a"})", kAccuracy, "expected text");
  refused("", kAccuracy, "expected at least one row");
}

TEST_F(Reward, DropsAndCountsBadRowsWhereThatIsAsked) {
  const auto rows = judged(R"({"solution":"7","completion":"\\boxed{7}"})"
                           "\n"
                           R"({"solution":"7"})"
                           "\n[1]\n",
                           kAccuracy + Arguments{"--strict", "false"});
  EXPECT_EQ(rows.size(), 1u);
  EXPECT_THAT(log_, HasSubstr("dataset: 1 of 3 rows are used; dropped: 2 bad"));
}

TEST_F(Reward, AnOutputIsNeverAnInputAndNeverOverwritten) {
  const std::string rows = write(R"({"solution":"7","completion":"\\boxed{7}"})");
  const Arguments command = Arguments{"reward", "--dataset", rows} + kAccuracy;
  const std::string before = read_file(rows);
  EXPECT_EQ(run_program(command + Arguments{"--output", rows, "--overwrite"}).exit_code, 2);
  EXPECT_EQ(read_file(rows), before);
  const std::string out = folder_.write("there.jsonl", "old").string();
  EXPECT_EQ(run_program(command + Arguments{"--output", out}).exit_code, 2);
  EXPECT_EQ(read_file(out), "old");
  run_well(command + Arguments{"--output", out, "--overwrite"});
  EXPECT_EQ(read_rows(out)[0]["reward"], 1.0);
}

TEST_F(Reward, WarnsOfSolutionsThatNobodyCanRead) {
  const std::string rows = R"({"solution":"7","completion":"a"})"
                           "\n"
                           R"({"solution":"$\\frac{1}{0}$","completion":"a"})"
                           "\n"
                           R"({"solution":"7 kg","completion":"a"})"
                           "\n"
                           R"({"solution":"???","completion":"a"})";
  judged(rows, kAccuracy);
  EXPECT_THAT(log_, AllOf(HasSubstr("warning"), HasSubstr("2 of 4 rows"),
                          HasSubstr("rows.jsonl:2: \"$\\\\frac{1}{0}$\"")));
  judged(rows, {"--reward_funcs", "format"});
  EXPECT_THAT(log_, Not(HasSubstr("cannot read")));
}

// What grpo says before its first step is what this command says.
TEST_F(Reward, GrpoWarnsOfThemToo) {
  const std::string model = new_model(folder_, "model", {"--like", "qwen3"});
  const std::string train = write_rows(folder_, "rows.jsonl",
                                       {{{"query", "a"}, {"solution", "$\\frac{1}{0}$"}},
                                        {{"query", "b"}, {"solution", "(C)"}},
                                        {{"query", "c"}, {"solution", "$\\frac{1}{$"}}});
  const std::string held_out =
      write_rows(folder_, "held.jsonl", {{{"query", "d"}, {"solution", "\\boxed{"}}});
  const ProgramResult result = run_well({"grpo",
                                         "--model",
                                         model,
                                         "--tuner_type",
                                         "full",
                                         "--dataset",
                                         train,
                                         "--val_dataset",
                                         held_out,
                                         "--output_dir",
                                         folder_ / "run",
                                         "--reward_funcs",
                                         "accuracy",
                                         "--num_generations",
                                         "2",
                                         "--max_completion_length",
                                         "2",
                                         "--max_steps",
                                         "1",
                                         "--beta",
                                         "0",
                                         "--save_strategy",
                                         "no",
                                         "--threads",
                                         "1"});
  EXPECT_THAT(result.err,
              AllOf(HasSubstr("the solution of 2 of 3 rows"), HasSubstr("rows.jsonl:1"),
                    HasSubstr("held-out rows"), HasSubstr("the solution of 1 of 1 rows"),
                    HasSubstr("held.jsonl:1")));
}

// The same files as in tests/reward/judged_cases_test.cpp, in one run.
TEST_F(Reward, GivesEachJudgedCaseItsScore) {
  const fs::path data = testing::source_dir() / "tests" / "data";
  std::string rows;
  std::vector<double> scores;
  for (const fs::path& path :
       {data / "field_cases" / "rewards.jsonl", data / "reward" / "kinds.jsonl",
        data / "field_cases" / "number_solutions.jsonl"}) {
    for_each_line(path, [&](int64_t, const std::string& line) {
      const Json row = parse_json(line, "test", "bad-row", {.keep_digits = true});
      Json judged = row.contains("row") ? row["row"] : Json{{"solution", row["solution"]}};
      judged["completion"] = row["completion"];
      rows += dump_json(judged) + "\n";
      scores.push_back(row["score"].get<double>());
    });
  }
  const auto result = judged(rows, kAccuracy);
  ASSERT_EQ(result.size(), scores.size());
  EXPECT_GT(scores.size(), 500u);
  for (size_t i = 0; i < scores.size(); ++i) EXPECT_EQ(result[i]["reward"], scores[i]) << result[i];
}

}  // namespace
}  // namespace lockstep::testing
