// Calls are taken out of turns, run and answered.
// SPDX-License-Identifier: Apache-2.0
#include "agent/tool_scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agent/tool_schemas.h"
#include "base/file.h"
#include "tests/agent/trajectories.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Answers with its call; one that says "bad" gets an error, "die" ends it.
const char* const kEcho =
    "echo=program:while read -r line; do case \"$line\" in *bad*) echo '{\"error\": \"bad x\"}';; "
    "*die*) exit 2;; *) printf '{\"content\": %s}\\n' \"$line\";; esac; done";
/// Answers with its process.
const char* const kSame = "same=program:while read -r line; do echo '\"here\"'; done";

class ToolTurns : public ::testing::Test {
 protected:
  AgentOptions options(Json schemas = Json::array({function("echo", {"x"})}),
                       std::vector<std::string> tools = {kEcho}) {
    write_file(folder_ / "tools.json", dump_json(schemas));
    return {.tools = std::move(tools), .tool_schemas = (folder_ / "tools.json").string()};
  }
  Round round(const AgentOptions& options) { return Round(options, {.encoder = &qwen3()}); }
  Round echo() { return round(options()); }

  testing::TempDir folder_;
};

TEST_F(ToolTurns, ACallIsAnsweredAndTheMessageHoldsIt) {
  Round round = echo();
  Trajectory& trajectory = round.add({{"solution", "3"}});
  round.begin();
  const Json answers =
      round.answers("Let me see.\n" + call("echo", R"({"x": "a", "n": 12345678901234567890123})"));
  // The schema knows no n.
  EXPECT_THAT(answers.at(0)["content"], "{\"error\": \"echo() got an unexpected argument 'n'\"}");
  EXPECT_EQ(round.answers(call("echo", R"({"x": "a"})")),
            json(R"([{"role": "tool", "name": "echo", "content": "{\"name\": \"echo\", )"
                 R"(\"arguments\": {\"x\": \"a\"}, \"id\": \"t0-2-0\", \"trajectory\": \"t0\", )"
                 R"(\"columns\": {\"solution\": \"3\"}}"}])"));
  EXPECT_EQ(trajectory.messages[3], json(R"({"role": "assistant", "content": "", "tool_calls":
                     [{"type": "function", "function": {"name": "echo", "arguments": {"x": "a"}}}]})"));
  EXPECT_EQ(trajectory.messages[1]["content"], "Let me see.");
  EXPECT_EQ(trajectory.num_tool_calls, 2);
  EXPECT_EQ(trajectory.num_tool_failures, 1);
}

TEST_F(ToolTurns, NumbersReachTheToolAsTheyWereWritten) {
  Round round = this->round(options(json(R"([{"name": "echo", "parameters": {"type": "object",
      "properties": {"n": {"type": "integer"}}}}])")));
  Trajectory& trajectory = round.add();
  round.begin();
  const Json answers = round.answers(call("echo", R"({"n": 12345678901234567890123})"));
  EXPECT_THAT(answers[0]["content"].get<std::string>(),
              HasSubstr(R"("arguments": {"n": 12345678901234567890123})"));
  EXPECT_EQ(trajectory.messages[1]["tool_calls"][0]["function"]["arguments"]["n"],
            12345678901234567890123.0);
}

TEST_F(ToolTurns, CallsOfAllTrajectoriesAreAnsweredInOrder) {
  Round round = this->round(
      options(Json::array({function("echo", {"x"}), function("same", {})}), {kEcho, kSame}));
  for (int i = 0; i < 3; ++i) round.add();
  round.begin();
  const auto followed = round.say({call("same", "{}") + "\n" + call("echo", R"({"x": "one"})"),
                                   "No call.", call("echo", R"({"x": "two"})")});
  ASSERT_EQ(followed[0].messages.size(), 2u);
  EXPECT_EQ(followed[0].messages[0]["content"], "here");
  EXPECT_THAT(followed[0].messages[1]["content"].get<std::string>(), HasSubstr("\"x\": \"one\""));
  EXPECT_TRUE(followed[1].is_over());
  ASSERT_EQ(followed[2].messages.size(), 1u);
  EXPECT_THAT(followed[2].messages[0]["content"].get<std::string>(), HasSubstr("\"x\": \"two\""));
  EXPECT_EQ(round.all()[1]->messages[1], json(R"({"role": "assistant", "content": "No call."})"));
  EXPECT_EQ(round.all()[0]->messages[1]["tool_calls"].size(), 2u);
}

TEST_F(ToolTurns, ATurnThatWasCutOffIsTheLast) {
  Round round = echo();
  round.add();
  round.begin();
  EXPECT_TRUE(round.say({call("echo", R"({"x": "a"})")}, "length")[0].is_over());
  EXPECT_EQ(round.all()[0]->num_tool_calls, 0);
}

TEST_F(ToolTurns, CallsThatNoTurnCanFollowAreNotMade) {
  Round round = echo();
  Trajectory& trajectory = round.add();
  round.begin();
  trajectory.is_last = true;
  EXPECT_TRUE(round.say({"So: " + call("echo", R"({"x": "a"})")})[0].is_over());
  EXPECT_EQ(trajectory.num_tool_calls, 0);
  EXPECT_EQ(trajectory.messages[1]["content"], "So:");
  EXPECT_EQ(trajectory.messages[1]["tool_calls"].size(), 1u);
}

TEST_F(ToolTurns, ThoughtsHoldNoCalls) {
  Round round = echo();
  Trajectory& trajectory = round.add();
  round.begin();
  const std::string thought = call("echo", R"({"x": "thought"})");
  EXPECT_TRUE(round.answers("<think>\n" + thought).empty());
  EXPECT_TRUE(round.answers("<think>\n" + thought + "\n</think>\n\nDone.").empty());
  const Json answers = round.answers("<think>\n" + thought + "\n</think>\n\nSo:\n" +
                                     call("echo", R"({"x": "said"})"));
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_THAT(answers[0]["content"].get<std::string>(), HasSubstr("said"));
  EXPECT_EQ(trajectory.messages[3]["content"], "<think>\n" + thought + "\n</think>\n\nSo:");
}

// Qwen3.5's generation prompt ends inside of a thought.
TEST_F(ToolTurns, ThoughtsThatThePromptHasOpenedHoldNoCalls) {
  const text::ChatEncoder encoder = text::chat_model("qwen3_5_think.jinja");
  Round round(options(), {.encoder = &encoder});
  round.add();
  round.begin();
  const std::string one =
      "<tool_call>\n<function=echo>\n<parameter=x>\na\n</parameter>\n</function>\n</tool_call>";
  EXPECT_TRUE(round.answers("well, " + one).empty());
  EXPECT_EQ(round.answers("well, " + one + "\n</think>\n\n" + one).size(), 1u);
  EXPECT_EQ(round.all()[0]->messages.back()["role"], "tool");
}

TEST_F(ToolTurns, WhatCannotBeCalledIsAnErrorThatTheModelReads) {
  Round round = echo();
  Trajectory& trajectory = round.add();
  round.begin();
  const auto content = [&](const std::string& text) {
    return round.answers(text).at(0)["content"].get<std::string>();
  };
  EXPECT_EQ(content(call("ecco", "{}")), "{\"error\": \"Tool ecco not found. There are: echo.\"}");
  EXPECT_EQ(content(call("echo", "{}")),
            "{\"error\": \"echo() missing 1 required argument: 'x'\"}");
  EXPECT_EQ(content(call("echo", R"({"x": "bad"})")), R"({"error": "bad x"})");
  EXPECT_EQ(trajectory.num_tool_calls, 3);
  EXPECT_EQ(trajectory.num_tool_failures, 3);
  // A call that is none is text.
  EXPECT_TRUE(round.answers("<tool_call>\n{\"name\": \"echo\"\n</tool_call>").empty());
}

TEST_F(ToolTurns, ABrokenToolIsLoggedOnceAndEndsTheRunWhenItBreaksTooOften) {
  AgentOptions often = options();
  often.tool_max_failures = 2;
  Round round = this->round(often);
  Trajectory& trajectory = round.add();
  round.begin();
  ::testing::internal::CaptureStderr();
  for (int i = 0; i < 2; ++i)
    EXPECT_EQ(round.answers(call("echo", R"({"x": "die"})")).at(0)["content"],
              "{\"error\": \"tool echo: expected an answer, got exit code 2\"}");
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(log,
              HasSubstr("a tool or an environment has failed, and the model reads an error, or "
                        "its completion ends: rows.jsonl:1: tool echo: expected an answer, "
                        "got exit code 2"));
  EXPECT_EQ(log.find("has failed"), log.rfind("has failed"));
  EXPECT_EQ(trajectory.num_tool_failures, 2);
  EXPECT_ERROR(
      round.answers(call("echo", R"({"x": "die"})")), PeerError, "tool-failed",
      "expected at most 2 failures of tools and environments (--tool_max_failures), got 3");
}

TEST_F(ToolTurns, LongAnswersAreCut) {
  AgentOptions short_answers = options();
  short_answers.max_tool_response_length = 5;
  Round round = this->round(short_answers);
  round.add();
  round.begin();
  const std::string content =
      round.answers(call("echo", R"({"x": "aaaaaaaaaaaaaaaaaaa"})")).at(0)["content"];
  EXPECT_THAT(content, ::testing::MatchesRegex(R"(\{"name.* \[… [0-9]+ tokens left out\])"));
  EXPECT_LT(content.size(), 60u);
}

TEST_F(ToolTurns, ARowShowsItsOwnToolsElseThoseOfTheFile) {
  Round round = this->round(
      options(Json::array({function("same", {}), function("echo", {"x"})}), {kEcho, kSame}));
  Trajectory& own = round.add(Json::object(), Json::array({function("same", {"why"})}));
  Trajectory& other = round.add();
  other.tools = nullptr;
  // In the order of the flag.
  EXPECT_EQ(round.scheduler().tools_of(*other.row),
            Json::array({function("echo", {"x"}), function("same", {})}));
  EXPECT_EQ(round.scheduler().tools_of(*own.row), own.row->tools);
  round.begin();
  EXPECT_EQ(own.tools, own.row->tools);
  EXPECT_EQ(other.tools.size(), 2u);
  const auto followed = round.say({call("echo", R"({"x": "a"})"), call("same", "{}")});
  EXPECT_EQ(followed[0].messages[0]["content"],
            "{\"error\": \"Tool echo not found. There are: same.\"}");
  EXPECT_EQ(followed[1].messages[0]["content"], "here");
}

TEST_F(ToolTurns, RowsAreChecked) {
  Round round = this->round({.tools = {kEcho, kSame}});
  const auto check = [&](Json tools) {
    round.scheduler().check(*round.add(Json::object(), std::move(tools)).row);
  };
  check(Json::array({function("same", {}), function("echo", {})}));
  EXPECT_ERROR(check(Json::array({function("sum", {})})), FormatError, "bad-row",
               "rows.jsonl:2: expected tools that --tools names (echo, same), got sum");
  EXPECT_ERROR(check(json(R"([{"type": "function"}])")), FormatError, "bad-row",
               "expected functions as OpenAI's API has them in tools");
  EXPECT_ERROR(check(nullptr), ConfigError, "bad-tool",
               "expected --tool_schemas with what echo, same is called with, since the row at "
               "rows.jsonl:4 has no tools of its own");
}

TEST_F(ToolTurns, ToolsAndTheirSchemasFitEachOther) {
  const auto make = [&](const Json& schemas, std::vector<std::string> tools) {
    round(options(schemas, std::move(tools)));
  };
  EXPECT_ERROR(make(Json::array({function("sum", {})}), {kEcho}), ConfigError, "bad-tool",
               "--tool_schemas: expected functions among echo, got sum");
  EXPECT_ERROR(make(Json::array({function("same", {})}), {kEcho, kSame}), ConfigError, "bad-tool",
               "expected a function for each tool that is a program or a URL, got none for echo");
  EXPECT_ERROR(make(Json::array({function("same", {}), function("same", {})}), {kSame}),
               ConfigError, "bad-tool", "got same twice");
  EXPECT_ERROR(make(Json::object(), {kSame}), ConfigError, "bad-tool", "got object");
  EXPECT_ERROR(make(json("[1]"), {kSame}), ConfigError, "bad-tool", "got none at place 0");
  EXPECT_ERROR(make(Json::array({function("same", {})}), {kSame, kSame}), ConfigError, "bad-tool",
               "expected tools of different names (NAME=…), got same twice");
  EXPECT_ERROR(round({.tools = {"program: "}}), ConfigError, "bad-flag",
               "--tools: expected a command");
  EXPECT_ERROR(round({.tools = {kSame}, .tool_schemas = "/nowhere.json"}), IoError,
               "unreadable-file", "nowhere");
}

TEST_F(ToolTurns, ATemplateWithoutCallsIsRefused) {
  const text::ChatEncoder plain(
      text::default_tokenizer(),
      text::ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", "plain", {}));
  EXPECT_ERROR(Round(options(), {.encoder = &plain}), ConfigError, "bad-tool",
               "expected a chat template that writes calls");
}

}  // namespace
}  // namespace lockstep::agent
