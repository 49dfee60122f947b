// Environments that are programs, and all the ways in which they fail.
// SPDX-License-Identifier: Apache-2.0
#include "agent/environment_scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/agent/trajectories.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::agent {
namespace {

using ::testing::HasSubstr;

/// Answers a reset by one line and each step by another, which cases of the text precede.
std::string environment(const std::string& reset, const std::string& cases = "") {
  return "program:while read -r line; do case \"$line\" in *'\"op\":\"reset\"'*) " + reset +
         ";; *'\"op\":\"close\"'*) echo '{}';; " + cases +
         " *right*) echo '{\"done\": true, \"reward\": 1}';; "
         "*) echo '{\"observation\": \"again\", \"reward\": 0.25, \"infos\": {\"k\": 1}}';; "
         "esac; done";
}
const std::string kPlain = "echo '{}'";

class Environments : public ::testing::Test {
 protected:
  Round round(AgentOptions options) { return Round(options, {.encoder = &qwen3()}); }
  Round round(const std::string& program) {
    AgentOptions options;
    options.gym_env = program;
    options.tool_timeout = 0.5;
    return round(options);
  }
  testing::TempDir folder_;
};

TEST_F(Environments, AnswersAndRewardsEachTurn) {
  Round round = this->round(environment(kPlain));
  Trajectory& trajectory = round.add();
  EXPECT_TRUE(round.scheduler().gives_reward());
  round.begin();
  EXPECT_EQ(trajectory.messages, trajectory.row->messages);
  EXPECT_EQ(trajectory.reward, 0);
  EXPECT_EQ(round.answers("wrong"), json(R"([{"role": "user", "content": "again"}])"));
  EXPECT_EQ(trajectory.reward, 0.25);
  EXPECT_EQ(trajectory.infos, json(R"({"k": 1, "total_reward": 0.25, "step_rewards": [0.25],
                                       "gym_done": false})"));
  EXPECT_TRUE(round.say({"right"})[0].is_over());
  EXPECT_EQ(trajectory.reward, 1.25);
  EXPECT_EQ(trajectory.infos, json(R"({"k": 1, "total_reward": 1.25, "step_rewards": [0.25, 1.0],
                                       "gym_done": true})"));
  round.end();
  EXPECT_EQ(trajectory.reward, 1.25);
}

TEST_F(Environments, SeesAllThatIsKnown) {
  const auto file = folder_ / "lines";
  AgentOptions options;
  options.gym_env = "program:while read -r line; do printf '%s\\n' \"$line\" >> " + file.string() +
                    "; echo '{\"observation\": \"next\"}'; done";
  Round round = this->round(options);
  round.add({{"env_config", R"({"name": "maze", "size": 4})"}, {"level", 2}},
            Json::array({function("f", {})}));
  round.begin();
  round.say({"go"});
  round.end();
  Json lines = Json::array();
  const std::string text = read_file(file);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    lines.push_back(json(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0],
            (Json{{"op", "reset"},
                  {"id", "t0"},
                  {"messages", json(R"([{"role": "user", "content": "1 + 2?"}])")},
                  {"columns", {{"env_config", R"({"name": "maze", "size": 4})"}, {"level", 2}}},
                  {"env_config", {{"name", "maze"}, {"size", 4}}},
                  {"tools", Json::array({function("f", {})})}}));
  EXPECT_EQ(lines[1], json(R"({"op": "step", "id": "t0", "turn": 1, "text": "go", "messages":
      [{"role": "user", "content": "next"}, {"role": "assistant", "content": "go"}],
      "finish_reason": "stop"})"));
  EXPECT_EQ(lines[2], json(R"({"op": "close", "id": "t0"})"));
}

TEST_F(Environments, AResetReplacesThePrompt) {
  const auto messages_of = [&](const std::string& answer) {
    Round round = this->round(environment("printf '%s\\n' '" + answer + "'"));
    Trajectory& trajectory = round.add();
    trajectory.messages.insert(trajectory.messages.begin(),
                               Json{{"role", "system"}, {"content", "old"}});
    round.begin();
    EXPECT_EQ(trajectory.reward, 0) << answer;
    return trajectory.messages;
  };
  EXPECT_EQ(messages_of(R"({"observation": "o"})"), json(R"([{"role": "user", "content": "o"}])"));
  EXPECT_EQ(messages_of(R"({"observation": "o", "system": "s"})"),
            json(R"([{"role": "system", "content": "s"}, {"role": "user", "content": "o"}])"));
  EXPECT_EQ(messages_of(R"({"system": "s"})"),
            json(R"([{"role": "system", "content": "s"}, {"role": "user", "content": "1 + 2?"}])"));
  EXPECT_EQ(messages_of(R"({"messages": [{"role": "user", "content": "m"}], "observation": null})"),
            json(R"([{"role": "user", "content": "m"}])"));
}

TEST_F(Environments, AResetGivesToolsAndInfos) {
  Round round =
      this->round(environment(R"(echo '{"tools": [{"name": "walk"}], "infos": {"seed": 7}}')"));
  Trajectory& trajectory = round.add();
  round.begin();
  EXPECT_EQ(trajectory.tools, json(R"([{"type": "function", "function": {"name": "walk"}}])"));
  EXPECT_EQ(trajectory.infos, json(R"({"seed": 7})"));
}

TEST_F(Environments, ATurnThatWasCutOffIsTheLastUnlessItSaysOtherwise) {
  Round round = this->round(environment(
      kPlain,
      "*'\"text\":\"be shorter'*) echo '{\"observation\": \"shorter\", \"done\": false}';;"));
  Trajectory& trajectory = round.add();
  round.begin();
  EXPECT_FALSE(round.say({"be shorter"}, "length")[0].is_over());
  EXPECT_TRUE(round.say({"long"}, "length")[0].is_over());
  EXPECT_EQ(trajectory.reward, 0.25);
  EXPECT_EQ(trajectory.infos["gym_done"], true);
}

TEST_F(Environments, TrajectoriesStayWithTheirProcess) {
  AgentOptions options;
  options.tool_workers = 3;
  options.gym_env = environment(kPlain, "*) echo '{\"observation\": \"'$$'\"}';;");
  Round round = this->round(options);
  for (int i = 0; i < 6; ++i) round.add();
  round.begin();
  const std::vector<std::string> texts(6, "x");
  std::vector<std::string> first;
  for (const FollowUp& one : round.say(texts)) first.push_back(one.messages[0]["content"]);
  std::map<std::string, int> counts;
  for (const std::string& process : first) ++counts[process];
  EXPECT_EQ(counts.size(), 3u);
  for (const auto& [process, count] : counts) EXPECT_EQ(count, 2);
  for (int i = 0; i < 3; ++i) {
    const auto followed = round.say(texts);
    for (size_t t = 0; t < texts.size(); ++t)
      EXPECT_EQ(followed[t].messages[0]["content"], first[t]);
  }
}

TEST_F(Environments, OneThatHangsOrDiesLosesItsTrajectoriesAlone) {
  for (const char* words : {"hang", "die", "junk"}) {
    AgentOptions options;
    options.tool_workers = 2;
    options.tool_timeout = 0.5;
    options.gym_env = environment(kPlain,
                                  "*'\"text\":\"hang'*) sleep 100;; *'\"text\":\"die'*) exit 3;; "
                                  "*'\"text\":\"junk'*) echo '[';;");
    Round round = this->round(options);
    for (int i = 0; i < 4; ++i) round.add();
    round.begin();
    ::testing::internal::CaptureStderr();
    const auto followed = round.say({words, "b", "c", "d"});
    const std::string log = ::testing::internal::GetCapturedStderr();
    EXPECT_THAT(log, HasSubstr("rows.jsonl:1: environment while: expected"));
    EXPECT_THAT(log, HasSubstr("(other completions that end with it: 1)"));
    for (const int lost : {0, 2}) {
      EXPECT_TRUE(followed[lost].is_over());
      EXPECT_FALSE(round.all()[lost]->reward);
    }
    for (const int other : {1, 3}) {
      EXPECT_FALSE(followed[other].is_over());
      EXPECT_EQ(round.all()[other]->reward, 0.25);
    }
    round.end();
    // Its process works for others again.
    round.begin();
    EXPECT_EQ(round.all()[0]->reward, 0);
    for (const FollowUp& one : round.say({"a", "b", "c", "d"})) EXPECT_FALSE(one.is_over());
  }
}

TEST_F(Environments, WhatItSaysOfOneTrajectoryEndsThatOneAlone) {
  Round round = this->round(environment(
      kPlain,
      "*error*) echo '{\"error\": \"no such door\"}';; *number*) echo '{\"observation\": 3}';; "
      "*nothing*) echo '{}';; *infinite*) echo '{\"done\": true, \"reward\": \"inf\"}';; "
      "*list*) echo '{\"messages\": [1]}';;"));
  const std::vector<std::string> texts{"error", "number", "nothing", "infinite", "list", "x"};
  for (size_t i = 0; i < texts.size(); ++i) round.add();
  round.begin();
  ::testing::internal::CaptureStderr();
  const auto followed = round.say(texts);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              HasSubstr("environment while: expected to step, got the error: no such door"));
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(followed[i].is_over(), i < 5) << texts[i];
    EXPECT_EQ(round.all()[i]->reward.has_value(), i == 5) << texts[i];
  }
}

TEST_F(Environments, ALineThatIsNoAnswerIsFound) {
  Round round = this->round(environment("printf '{}\\n{}\\n'"));
  round.add();
  round.begin();
  ::testing::internal::CaptureStderr();
  EXPECT_TRUE(round.say({"a"})[0].is_over());
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              HasSubstr("expected one line for each that it is asked, got another one: {}"));
}

TEST_F(Environments, ABrokenResetEndsTheTrajectoryWithItsFirstTurn) {
  AgentOptions options;
  options.tool_timeout = 0.3;
  options.gym_env =
      "program:while read -r line; do case \"$line\" in *forget*) sleep 100;; *) echo "
      "'{\"observation\": \"o\"}';; esac; done";
  Round round = this->round(options);
  round.add({{"level", "forget"}});
  round.add();
  round.begin();
  EXPECT_FALSE(round.all()[0]->reward);
  // The other one was reset by a new process.
  EXPECT_EQ(round.all()[1]->reward, 0);
  const auto followed = round.say({"a", "b"});
  EXPECT_TRUE(followed[0].is_over());
  EXPECT_FALSE(followed[1].is_over());
}

TEST_F(Environments, TooManyFailuresEndTheRun) {
  AgentOptions options;
  options.tool_max_failures = 1;
  options.gym_env = environment(kPlain, "*error*) echo '{\"error\": \"e\"}';;");
  Round round = this->round(options);
  round.add();
  round.add();
  round.begin();
  EXPECT_ERROR(
      round.say({"error", "error"}), PeerError, "tool-failed",
      "expected at most 1 failures of tools and environments (--tool_max_failures), got 2");
}

TEST_F(Environments, ACloseThatFailsLeavesTheReward) {
  AgentOptions options;
  options.tool_timeout = 0.3;
  options.gym_env =
      "program:while read -r line; do case \"$line\" in *close*) sleep 100;; *) echo "
      "'{\"observation\": \"o\", \"reward\": 2}';; esac; done";
  Round round = this->round(options);
  Trajectory& trajectory = round.add();
  round.begin();
  round.say({"a"});
  round.end();
  EXPECT_EQ(trajectory.reward, 2);
}

TEST_F(Environments, LongObservationsAreCut) {
  AgentOptions options;
  options.max_tool_response_length = 4;
  options.gym_env =
      environment(kPlain, "*) echo '{\"observation\": \"one two three four five six\"}';;");
  Round round = this->round(options);
  round.add();
  round.begin();
  EXPECT_THAT(round.answers("x").at(0)["content"].get<std::string>(),
              HasSubstr(" tokens left out]"));
}

TEST_F(Environments, RowsAreChecked) {
  Round named = this->round("maze=" + environment(kPlain));
  const auto check = [&](Json columns) { named.scheduler().check(*named.add(columns).row); };
  check(Json::object());
  check({{"env_config", {{"name", "maze"}, {"size", 3}}}});
  check({{"environment", "maze"}});
  check({{"env_config", {{"size", 3}}}});
  EXPECT_ERROR(check({{"environment", "chess"}}), FormatError, "bad-row",
               "rows.jsonl:5: expected the environment maze in env_config, got \"chess\"");
  EXPECT_ERROR(check({{"env_config", "{"}}), FormatError, "bad-row",
               "expected an object in env_config, got \"{\"");
  EXPECT_ERROR(check({{"env_config", 3}}), FormatError, "bad-row",
               "expected an object in env_config");
  EXPECT_ERROR(check({{"environment", 3}}), FormatError, "bad-row",
               "expected an object or a name in environment, got 3");
  // A program without a name may know many.
  Round any = this->round(environment(kPlain));
  any.scheduler().check(*any.add({{"environment", "chess"}}).row);
}

TEST_F(Environments, ToolsStandBeforeIt) {
  write_file(folder_ / "tools.json", dump_json(Json::array({function("same", {})})));
  AgentOptions options;
  options.tools = {"same=program:while read -r line; do echo '\"here\"'; done"};
  options.tool_schemas = (folder_ / "tools.json").string();
  options.gym_env = environment(R"(echo '{"tools": [{"name": "walk"}, {"name": "same"}]}')");
  Round round = this->round(options);
  Trajectory& trajectory = round.add();
  round.begin();
  EXPECT_TRUE(round.scheduler().gives_reward());
  EXPECT_EQ(round.answers(call("same", "{}")).at(0)["content"], "here");
  EXPECT_EQ(trajectory.reward, 0);
  EXPECT_EQ(round.answers("No call.").at(0)["content"], "again");
  // A tool of its own is its own to answer, and it reads the turn as it was written.
  EXPECT_EQ(round.answers(call("walk", "{}")).at(0)["content"], "again");
  EXPECT_EQ(trajectory.messages[5]["content"], call("walk", "{}"));
  EXPECT_TRUE(round.say({"right"})[0].is_over());
  EXPECT_EQ(trajectory.reward, 1.5);
  round.end();
}

TEST_F(Environments, FlagsFitEachOther) {
  AgentOptions options;
  options.gym_env = "http://127.0.0.1:1/env";
  EXPECT_ERROR(round(options), ConfigError, "bad-flag",
               "--gym_env: expected [NAME=]program:COMMAND");
  options.gym_env = environment(kPlain);
  options.multi_turn_scheduler = "math_tip_trick";
  EXPECT_ERROR(round(options), ConfigError, "bad-flag",
               "--multi_turn_scheduler: expected gym_scheduler or none");
  options.multi_turn_scheduler = "gym_scheduler";
  EXPECT_TRUE(round(options).scheduler().gives_reward());
}

}  // namespace
}  // namespace lockstep::agent
