// report.html of a run, and lockstep report. What the page looks like is for tests/browser.
// SPDX-License-Identifier: Apache-2.0
#include <csignal>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"
#include "tests/support/loopback_listener.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr int kInterrupted = 130;

/// The data of a page.
Json data_of(const fs::path& page) {
  const std::string text = slurp(page), mark = "id=\"data\">";
  const size_t begin = text.find(mark) + mark.size(), end = text.find("</script>", begin);
  return parse_json(text.substr(begin, end - begin), page.string());
}

class ReportCommand : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TempDir;
    const std::string model = new_model(*shared_, "model", {"--like", "qwen3"});
    write_rows(*shared_, "rows.jsonl", sum_rows(4));
    run_well(grpo(*shared_ / "run"));
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }
  static Arguments grpo(const fs::path& run) {
    return {"grpo",
            "--model",
            (*shared_ / "model").string(),
            "--tuner_type",
            "full",
            "--dataset",
            (*shared_ / "rows.jsonl").string(),
            "--reward_funcs",
            "format",
            "soft_overlong",
            "--soft_cache_length",
            "2",
            "--num_generations",
            "4",
            "--max_completion_length",
            "6",
            "--max_steps",
            "6",
            "--logging_steps",
            "1",
            "--val_dataset",
            (*shared_ / "rows.jsonl").string(),
            "--eval_steps",
            "3",
            "--threads",
            "1",
            "--output_dir",
            run.string()};
  }
  static inline TempDir* shared_ = nullptr;
  TempDir folder_;
};

TEST_F(ReportCommand, ARunWritesItsReport) {
  const Json run = data_of(*shared_ / "run" / "report.html")["runs"][0];
  const auto log = read_rows(*shared_ / "run" / "logging.jsonl");
  std::vector<double> rewards, evaluated;
  for (const Json& line : log) {
    if (line.contains("reward")) rewards.push_back(line["reward"]);
    if (line.contains("eval_reward")) evaluated.push_back(line["eval_reward"]);
  }
  const auto means = [&](const char* table) {
    return run[table]["columns"]["reward"]["mean"].get<std::vector<double>>();
  };
  ASSERT_EQ(rewards.size(), 6u);
  EXPECT_THAT(means("curves"), ::testing::Pointwise(::testing::DoubleNear(1e-5), rewards));
  ASSERT_EQ(evaluated.size(), 2u);
  EXPECT_THAT(means("evaluations"), ::testing::Pointwise(::testing::DoubleNear(1e-5), evaluated));
  EXPECT_EQ(run["name"], "run");
  EXPECT_EQ(run["settings"]["max_steps"], "6");
  EXPECT_EQ(run["summary"]["global_step"], 6);
  EXPECT_EQ(run["samples"]["rewards"], Json({"Format", "SoftOverlong"}));
  EXPECT_FALSE(run["samples"]["prompts"].empty());
  int64_t completions = 0, logged = 0;
  for (const Json& column : run["lengths"]["counts"])
    for (const Json& count : column) completions += count.get<int64_t>();
  for (const Json& line : read_rows(*shared_ / "run" / "completions.jsonl"))
    logged += std::ssize(line["completion"]);
  EXPECT_EQ(completions, logged);
}

TEST_F(ReportCommand, ARunWithoutAReportWritesNone) {
  run_well(grpo(folder_ / "run") + Arguments{"--report_html", "false"});
  EXPECT_FALSE(fs::exists(folder_ / "run" / "report.html"));
}

TEST_F(ReportCommand, AStoppedRunsReportSaysHowFarItCame) {
  // Whether that step is saved or not.
  for (const char* saves : {"true", "false"}) {
    const fs::path run = folder_ / saves;
    RunningProgram program(grpo(run) +
                           Arguments{"--max_steps", "1000000", "--save_on_interrupt", saves});
    ASSERT_TRUE(wait_until(program, [&] { return count_lines(run / "logging.jsonl") >= 5; }));
    program.send(SIGINT);
    ASSERT_EQ(program.wait().exit_code, kInterrupted);
    const auto log = read_rows(run / "logging.jsonl");
    const Json status = data_of(run / "report.html")["runs"][0]["status"];
    EXPECT_EQ(std::to_string(status["step"].get<int64_t>()) + "/1000000",
              log.back().at("global_step/max_steps"));
  }
}

TEST_F(ReportCommand, TheCommandWritesTheSamePage) {
  const fs::path run = *shared_ / "run";
  const std::string before = slurp(run / "report.html");
  run_well({"report", run.string()});
  EXPECT_TRUE(slurp(run / "report.html") == before);
  run_well({"report", (run / "logging.jsonl").string(), "--output", folder_ / "own.html"});
  EXPECT_TRUE(slurp(folder_ / "own.html") == before);
}

TEST_F(ReportCommand, SeveralRunsGoOntoOnePage) {
  const fs::path run = *shared_ / "run", page = folder_ / "page.html";
  folder_.write("logging.jsonl", "{\"loss\": 0.5, \"global_step/max_steps\": \"1/2\"}\n");
  run_well({"report", run.string(), folder_.path().string(), "--output", page.string()});
  const Json data = data_of(page);
  ASSERT_EQ(data["runs"].size(), 2u);
  EXPECT_EQ(data["runs"][1]["curves"]["columns"]["loss"]["mean"], Json::array({0.5}));
}

TEST_F(ReportCommand, WhatCannotBeDrawnIsRefused) {
  const auto refused = [&](const Arguments& more, const char* code) {
    const ProgramResult result = run_program(Arguments{"report"} + more);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_THAT(result.err, HasSubstr(std::string("error[") + code + "]"));
  };
  const std::string run = (*shared_ / "run").string();
  const std::string kept = folder_.write("kept.html", "mine").string();
  refused({}, "missing-argument");
  refused({(folder_ / "nothing").string()}, "missing-run");
  refused({(*shared_ / "model").string()}, "missing-run");
  refused({run, "--output", kept}, "output-exists");
  refused({run, "--output", run + "/logging.jsonl", "--overwrite", "true"}, "output-is-input");
  refused({run, "--output", run + "/args.json", "--overwrite", "true"}, "output-is-input");
  EXPECT_EQ(slurp(kept), "mine");
  run_well({"report", run, "--output", kept, "--overwrite", "true"});
  EXPECT_THAT(slurp(kept), HasSubstr("<!doctype html>"));
}

/// Before anything is computed or written.
TEST_F(ReportCommand, ABusyPortOfTheDashboardIsAnError) {
  const LoopbackListener taken;
  const ProgramResult result =
      run_program(grpo(folder_ / "run") + Arguments{"--dashboard", std::to_string(taken.port())});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("error[address-in-use]"));
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(ReportCommand, LinesThatAreNoStepsAreSaid) {
  folder_.write("logging.jsonl", "{\"loss\": 0.5, \"step\": 1}\nno JSON\n");
  const ProgramResult result =
      run_program({"report", folder_.path().string(), "--output", folder_ / "page.html"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("1 lines are no logged steps"));
}

}  // namespace
}  // namespace lockstep::testing
