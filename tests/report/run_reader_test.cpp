// SPDX-License-Identifier: Apache-2.0
#include "report/run_reader.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::report {
namespace {

class RunReaderTest : public ::testing::Test {
 protected:
  void log(const Json& line) {
    std::ofstream(folder_ / "logging.jsonl", std::ios::app) << dump_json(line, true) << "\n";
  }
  Json read() {
    RunReader reader(folder_.path());
    reader.read();
    return parse_json(reader.json("run"), "run");
  }
  testing::TempDir folder_;
};

Json step_line(int64_t step, double reward) {
  return {{"reward", reward},
          {"elapsed_time", "1m 2s"},
          {"global_step/max_steps", std::to_string(step) + "/10"}};
}

TEST_F(RunReaderTest, StepsEvaluationsSummaryAndSettingsAreTold) {
  log(step_line(1, 0.25));
  log({{"eval_reward", 0.5}, {"epoch", 0.1}, {"global_step/max_steps", "1/10"}});
  log(step_line(2, 0.75));
  const Json on_its_way = read();
  EXPECT_TRUE(on_its_way["summary"].is_null());
  EXPECT_EQ(on_its_way["status"]["step"], 2);
  EXPECT_EQ(on_its_way["status"]["max_steps"], 10);
  EXPECT_EQ(on_its_way["status"]["elapsed_time"], "1m 2s");
  log({{"last_model_checkpoint", "x"},
       {"global_step", 2},
       {"max_steps", 10},
       {"train_runtime", 5}});
  folder_.write("args.json", R"({"model": "m", "beta": 0.04, "notices": ["n"], "wandb_api_key": "k",
      "rollout_api_key": "", "max_completion_length": 5})");
  const Json run = read();
  EXPECT_EQ(run["curves"]["columns"]["reward"]["mean"], Json({0.25, 0.75}));
  EXPECT_EQ(run["evaluations"]["columns"]["reward"]["mean"], Json::array({0.5}));
  EXPECT_EQ(run["evaluations"]["steps"], Json::array({1}));
  EXPECT_EQ(run["summary"]["train_runtime"], 5);
  EXPECT_EQ(run["settings"], Json({{"model", "m"},
                                   {"beta", "0.04"},
                                   {"wandb_api_key", "(hidden)"},
                                   {"rollout_api_key", ""},
                                   {"max_completion_length", "5"}}));
}

TEST_F(RunReaderTest, LinesThatSayNothingAreCounted) {
  log(step_line(1, 0.25));
  std::ofstream(folder_ / "logging.jsonl", std::ios::app) << "{\"torn\": \n[1]\n{\"loss\": 1}\n\n";
  log(step_line(2, 0.5));
  const Json run = read();
  EXPECT_EQ(run["status"]["bad_lines"], 3);
  EXPECT_EQ(run["curves"]["rows"], 2);
}

TEST_F(RunReaderTest, ALogIsARunToo) {
  log(step_line(1, 0.25));
  RunReader reader(folder_ / "logging.jsonl");
  reader.read();
  EXPECT_EQ(reader.curves().num_rows(), 1u);
  EXPECT_EQ(reader.directory(), folder_.path());
}

/// TRL has no logging.jsonl: the newest checkpoint knows the same.
TEST_F(RunReaderTest, AHistoryOfTransformersIsRead) {
  for (const char* name : {"checkpoint-5", "checkpoint-10"}) {
    std::filesystem::create_directory(folder_ / name);
    std::ofstream(folder_ / name / "trainer_state.json") << dump_json(
        {{"max_steps", 20},
         {"log_history",
          {{{"loss", 1.5}, {"reward", 0.25}, {"step", 5}, {"epoch", 0.5}},
           {{"eval_reward", 0.375}, {"step", 5}},
           {{"loss", 0.5}, {"reward", std::string(name).size() > 12 ? 0.75 : 0}, {"step", 10}}}}});
  }
  const Json run = read();
  EXPECT_EQ(run["curves"]["steps"], Json({5, 10}));
  EXPECT_EQ(run["curves"]["columns"]["reward"]["mean"], Json({0.25, 0.75}));
  EXPECT_EQ(run["evaluations"]["columns"]["reward"]["mean"], Json::array({0.375}));
  EXPECT_EQ(run["status"]["max_steps"], 20);
  EXPECT_FALSE(run["curves"]["columns"].contains("step"));
}

TEST_F(RunReaderTest, AFolderWithoutALogIsNoRun) {
  EXPECT_ERROR(RunReader{folder_.path()}, ConfigError, "missing-run", "expected a run directory");
  EXPECT_ERROR(RunReader{folder_ / "nothing"}, ConfigError, "missing-run", "no such folder");
}

TEST_F(RunReaderTest, WhatComesLaterIsReadLater) {
  RunReader reader = RunReader::growing(folder_.path());
  EXPECT_FALSE(reader.read());
  log(step_line(1, 0.25));
  EXPECT_TRUE(reader.read());
  EXPECT_FALSE(reader.read());
  const int64_t generation = reader.curves().generation();
  log(step_line(2, 0.5));
  folder_.write("completions.jsonl",
                R"({"step": ["2"], "prompt": ["p"], "completion": ["c"], "token_ids": [[1, 2]]})"
                "\n");
  EXPECT_TRUE(reader.read());
  const Json changes = parse_json("{" + reader.changes_json(generation, 1) + "}", "changes");
  EXPECT_EQ(changes["curves"]["first"], 1);
  EXPECT_EQ(changes["curves"]["steps"], Json::array({2}));
  EXPECT_EQ(changes["completions_version"], 1);
  // A resumed run writes its log anew.
  folder_.write("logging.jsonl", "");
  log(step_line(1, 0.125));
  EXPECT_TRUE(reader.read());
  EXPECT_EQ(reader.curves().num_rows(), 1u);
  EXPECT_EQ(reader.curves().mean("reward", 0), 0.125);
  const Json again = parse_json("{" + reader.changes_json(generation, 1) + "}", "changes");
  EXPECT_EQ(again["curves"]["first"], 0);
}

TEST_F(RunReaderTest, LengthsAreTokensOrCharacters) {
  log(step_line(1, 0.25));
  folder_.write("completions.jsonl",
                R"({"step": ["1", "1"], "prompt": ["p", "p"], "completion": ["abc", "de"]})"
                "\n");
  const Json run = read();
  EXPECT_EQ(run["length_unit"], "characters");
  EXPECT_EQ(run["lengths"]["counts"], Json::array({{0, 0, 1, 1}}));
}

}  // namespace
}  // namespace lockstep::report
