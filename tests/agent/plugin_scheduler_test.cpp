// Schedulers, environments and tools in Python, and all the ways in which they fail.
// SPDX-License-Identifier: Apache-2.0
#include "agent/plugin_scheduler.h"

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/agent/trajectories.h"
#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"

namespace lockstep::agent {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::AllOf;
using ::testing::HasSubstr;

const fs::path kPlugins = testing::source_dir() / "tests" / "plugin_host" / "plugins";

bool has_python() { return std::system("python3 -c '' > /dev/null 2>&1") == 0; }

class Plugins : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_python()) GTEST_SKIP() << "there is no python3";
  }
  static SchedulerContext context(int64_t workers = 1) {
    SchedulerContext context;
    context.encoder = &qwen3();
    context.plugins.external_plugins = {(kPlugins / "turns_plugin.py").string()};
    context.plugins.plugin_workers = workers;
    context.plugins.host_script =
        (testing::source_dir() / "integrations" / "plugin_host" / "host.py").string();
    context.args = {{"model", "/nowhere"}};
    return context;
  }
  static AgentOptions scheduled(const std::string& scheduler) {
    AgentOptions options;
    options.multi_turn_scheduler = scheduler;
    return options;
  }
  static AgentOptions with_tools(std::vector<std::string> tools) {
    AgentOptions options;
    for (std::string& tool : tools)
      options.tools.push_back(tool.find("=program:") == tool.npos
                                  ? (kPlugins / "tools.py").string() + ":" + tool
                                  : tool);
    return options;
  }
};

TEST_F(Plugins, ASchedulerAnswersUntilItHasFinished) {
  AgentOptions options = scheduled("again");
  options.max_turns = 2;
  Round round(options, context());
  Trajectory& trajectory = round.add();
  EXPECT_FALSE(round.scheduler().gives_reward());
  round.begin();
  EXPECT_EQ(round.answers("a"), json(R"([{"role": "user", "content": "again 1"}])"));
  EXPECT_EQ(trajectory.infos, json(R"({"asked": 1})"));
  EXPECT_TRUE(round.say({"b"})[0].is_over());
  EXPECT_FALSE(trajectory.reward);
  round.end();
}

TEST_F(Plugins, HooksOfAllTrajectoriesWaitTogether) {
  Round round(scheduled("hooks"), context());
  for (int i = 0; i < 8; ++i) round.add({{"question", "q" + std::to_string(i)}});
  const auto begin = steady_clock::now();
  round.begin();
  EXPECT_EQ(round.all()[7]->messages, json(R"([{"role": "user", "content": "q7"}])"));
  const auto followed = round.say(std::vector<std::string>(8, "on"));
  // One after the other they would take 3.2 s.
  EXPECT_LT(steady_clock::now() - begin, milliseconds(2'500));
  for (const FollowUp& one : followed)
    EXPECT_EQ(one.messages, json(R"([{"role": "user", "content": "next"}])"));
}

// The token that ended the turn is not kept, since the model goes on without it.
TEST_F(Plugins, ATurnGoesOnBehindTokensOfItsOwn) {
  Round round(scheduled("changes"), context());
  Trajectory& trajectory = round.add();
  round.begin();
  const auto& tokenizer = qwen3().tokenizer();
  const std::vector<int64_t> ids = tokenizer.encode("ids of it");
  trajectory.messages.push_back({{"role", "assistant"}, {"content", "<think>\nids of it"}});
  trajectory.text = "<think>\nids of it";
  trajectory.finish_reason = "stop";
  trajectory.num_turns = 1;
  trajectory.token_ids = ids;
  trajectory.token_ids.push_back(*tokenizer.eos_id());
  // The plugin looks at what it gets as the turn's text, which begins with what the prompt opened.
  EXPECT_TRUE(round.scheduler().follow(round.all())[0].continuation);

  trajectory.text = "ids of it";
  trajectory.messages.back()["content"] = trajectory.text;
  FollowUp follow_up = round.scheduler().follow(round.all())[0];
  ASSERT_TRUE(follow_up.continuation);
  EXPECT_EQ(follow_up.continuation->kept, ids.size());
  EXPECT_EQ(follow_up.continuation->ids, (std::vector<int64_t>{7, 8}));
  const std::string text = "ids of it" + tokenizer.decode(std::vector<int64_t>{7, 8});
  EXPECT_EQ(follow_up.continuation->text, text);

  // Of the turn that has gone on the hooks get what is new.
  trajectory.text = text + "text";
  trajectory.messages.back()["content"] = trajectory.text;
  trajectory.token_ids = tokenizer.encode("text");
  trajectory.num_turns = 2;
  follow_up = round.scheduler().follow(round.all())[0];
  ASSERT_TRUE(follow_up.continuation);
  EXPECT_EQ(follow_up.continuation->text, text + "text and on");
  EXPECT_TRUE(follow_up.continuation->ids.empty());
}

TEST_F(Plugins, TrajectoriesThatFailAreOverAlone) {
  Round round(scheduled("changes"), context());
  const std::vector<std::string> texts{"raise", "history", "learn", "text", "calls"};
  for (size_t i = 0; i < texts.size(); ++i) round.add();
  round.begin();
  ::testing::internal::CaptureStderr();
  const auto followed = round.say(texts);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              AllOf(HasSubstr("rows.jsonl:1: the scheduler: expected to follow, got "),
                    HasSubstr("turns_plugin.py:"), HasSubstr("ValueError: no such move")));
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(followed[i].is_over()) << texts[i];
  EXPECT_EQ(followed[3].continuation->text, "text and on");
  EXPECT_EQ(followed[4].messages[0]["content"], "5");
  EXPECT_EQ(round.all()[4]->messages[1],
            json(R"({"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]})"));
}

TEST_F(Plugins, AProcessThatHangsOrDiesLosesItsTrajectoriesAlone) {
  for (const char* words : {"hang", "die"}) {
    AgentOptions options = scheduled("changes");
    options.tool_timeout = 1.5;
    Round round(options, context(/*workers=*/2));
    for (int i = 0; i < 4; ++i) round.add();
    round.begin();
    ::testing::internal::CaptureStderr();
    const auto begin = steady_clock::now();
    const auto followed = round.say({"text", "text", words, "text"});
    EXPECT_LT(steady_clock::now() - begin, milliseconds(15'000));
    EXPECT_THAT(::testing::internal::GetCapturedStderr(),
                AllOf(HasSubstr("rows.jsonl:1: turns: expected an answer"),
                      HasSubstr("(completions that end with it: 2)")));
    for (const size_t i : {0, 2}) EXPECT_TRUE(followed[i].is_over());
    for (const size_t i : {1, 3}) EXPECT_FALSE(followed[i].is_over());
    round.end();
    round.begin();
    for (const FollowUp& one : round.say({"text", "text", "text", "text"}))
      EXPECT_FALSE(one.is_over());
  }
}

// Three steps of 1.2 s each are slower than the limit, but none of them is.
TEST_F(Plugins, TheTimeOfOneAnswerIsThatOfOneTrajectory) {
  AgentOptions options = scheduled("changes");
  options.tool_timeout = 2.5;
  Round round(options, context());
  for (int i = 0; i < 3; ++i) round.add();
  round.begin();
  for (const FollowUp& one : round.say({"slow", "slow", "slow"}))
    EXPECT_EQ(one.messages, json(R"([{"role": "user", "content": "late"}])"));
}

TEST_F(Plugins, AnEnvironmentGivesTheReward) {
  AgentOptions options;
  options.gym_env = "count_env";
  Round round(options, context(/*workers=*/2));
  EXPECT_TRUE(round.scheduler().gives_reward());
  round.add({{"length", 3}});
  round.add({{"length", 5}, {"env_config", R"({"name": "count_env", "system": "s"})"}});
  round.begin();
  const auto all = round.all();
  EXPECT_EQ(all[0]->messages, json(R"([{"role": "user", "content": "3 letters"}])"));
  EXPECT_EQ(all[1]->messages, json(R"([{"role": "system", "content": "s"},
                                       {"role": "user", "content": "5 letters"}])"));
  EXPECT_EQ(all[0]->reward, 0);
  const auto followed = round.say({"four", "three"});
  EXPECT_EQ(followed[0].messages, json(R"([{"role": "user", "content": "not 4"}])"));
  EXPECT_EQ(all[0]->reward, -0.25);
  EXPECT_TRUE(followed[1].is_over());
  EXPECT_EQ(all[1]->reward, 1);
  EXPECT_EQ(all[1]->infos,
            json(R"({"total_reward": 1.0, "step_rewards": [1.0], "gym_done": true})"));
  round.end();
  EXPECT_EQ(all[1]->reward, 1);
}

TEST_F(Plugins, RowsAreChecked) {
  AgentOptions options;
  options.use_gym_env = true;
  Round round(options, context());
  const auto check = [&](Json columns) { round.scheduler().check(*round.add(columns).row); };
  check({{"env_config", {{"name", "count_env"}}}});
  check({{"environment", "math_env"}});
  EXPECT_ERROR(check(Json::object()), FormatError, "bad-row",
               "expected the name of an environment in env_config (count_env, math_env), got none");
  EXPECT_ERROR(check({{"environment", "chess"}}), FormatError, "bad-row", "got \"chess\"");
  // One whose environment the row names wrongly anyway ends at its beginning.
}

TEST_F(Plugins, WhatCannotBeLoadedNamesTheFlag) {
  EXPECT_ERROR(Round(scheduled("nobodys"), context()), ConfigError, "bad-plugin",
               "--multi_turn_scheduler: turns: expected a scheduler among again, changes");
  EXPECT_ERROR(Round(scheduled("runs"), context()), ConfigError, "bad-plugin",
               "expected a scheduler that leaves run() alone");
  AgentOptions gym;
  gym.gym_env = "chess";
  EXPECT_ERROR(Round(gym, context()), ConfigError, "bad-plugin",
               "--gym_env: turns: expected an environment among count_env, math_env, got chess");
  EXPECT_ERROR(Round(with_tools({"nothing"}), context()), ConfigError, "bad-plugin",
               "--tools: tools: expected nothing in ");
  AgentOptions bare;
  bare.tools = {"multiply"};
  EXPECT_ERROR(Round(bare, context()), ConfigError, "bad-tool",
               "--tools: expected [NAME=]program:COMMAND, [NAME=]http://…, [NAME=]module:function");
}

TEST_F(Plugins, FunctionsAreToolsWithSchemasOfTheirOwn) {
  Round round(with_tools({"multiply", "same=program:while read -r line; do echo '\"here\"'; done",
                          "wait_for"}),
              context());
  Trajectory& trajectory =
      round.add(Json::object(), Json::array({function("same", {}), function("multiply", {"a", "b"}),
                                             function("wait_for", {})}));
  round.begin();
  const Json answers = round.answers(call("multiply", R"({"a": 3, "b": 12345678901234567890123})") +
                                     call("same", "{}") + call("wait_for", R"({"city": "Rome"})") +
                                     call("multiply", R"({"a": 3})"));
  ASSERT_EQ(answers.size(), 4u);
  EXPECT_EQ(answers[0]["content"], "37037036703703703670369");
  EXPECT_EQ(answers[1]["content"], "here");
  EXPECT_EQ(answers[2]["content"], "{'city': 'Rome', 'days': 1}");
  EXPECT_EQ(answers[3]["content"],
            "{\"error\": \"multiply() missing 1 required positional argument: 'b'\"}");
  EXPECT_EQ(trajectory.num_tool_failures, 1);
  // The program says nothing of itself, the functions do.
  Round functions(with_tools({"wait_for", "multiply"}), context());
  const Json tools = functions.scheduler().tools_of(*functions.add().row);
  ASSERT_EQ(tools.size(), 2u);
  EXPECT_EQ(tools[0]["function"]["name"], "wait_for");
  EXPECT_EQ(tools[1], json(R"({"type": "function", "function": {"name": "multiply",
      "description": "Multiplies two integers.", "parameters": {"type": "object", "properties":
        {"a": {"type": "integer", "description": "The first integer."},
         "b": {"type": "integer", "description": "The second integer."}}, "required": ["a", "b"]},
      "return": {"type": "integer", "description": "The product of the two integers."}}})"));
}

TEST_F(Plugins, AFunctionThatHangsFloodsOrEndsItsProcessIsAnErrorOfItsCall) {
  AgentOptions options = with_tools({"trouble", "multiply"});
  options.tool_timeout = 2;
  Round round(options, context());
  Trajectory& trajectory = round.add();
  round.begin();
  for (const auto& [kind, words] :
       {std::pair<std::string, std::string>{"hang", "tools: expected an answer within 2 s"},
        {"die", "tools: expected an answer, got exit code 4"},
        {"flood", "expected an answer of one line of at most 67108864 bytes, got more"},
        {"raise", "{\"error\": \"'no such key'\"}"}}) {
    const Json answers = round.answers(call("trouble", "{\"kind\": \"" + kind + "\"}") +
                                       call("multiply", R"({"a": 2, "b": 2})"));
    EXPECT_THAT(answers.at(0)["content"].get<std::string>(), HasSubstr(words));
    EXPECT_EQ(answers.at(1)["content"], "4");
  }
  EXPECT_EQ(trajectory.num_tool_failures, 4);
}

}  // namespace
}  // namespace lockstep::agent
