// Tools that are programs or stand behind a URL, and all the ways in which they fail.
// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agent/tool_box.h"
#include "base/file.h"
#include "tests/agent/trajectories.h"
#include "tests/support/expect_error.h"
#include "tests/support/socket_server.h"
#include "tests/support/temp_dir.h"

namespace lockstep::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::SocketConnection;
using testing::SocketRequest;
using testing::SocketServer;

std::unique_ptr<ToolBox> tool(const std::string& text, AgentOptions options = {}) {
  const auto spec = *reward::external_spec("test=" + text, "--tools");
  return spec.kind == reward::ExternalSpec::Kind::kProgram ? make_program_tool(spec, options)
                                                           : make_url_tool(spec, options);
}

/// The answers of calls whose argument `x` is one of these.
std::vector<ToolAnswer> answers_of(ToolBox& box, const std::vector<std::string>& values) {
  static const text::Row row = [] {
    text::Row made;
    made.columns = {{"solution", "42"}};
    made.where = "rows.jsonl:7";
    return made;
  }();
  Trajectory trajectory;
  trajectory.id = "t3";
  trajectory.row = &row;
  std::vector<ToolJob> jobs;
  for (const std::string& value : values)
    jobs.push_back({.trajectory = &trajectory,
                    .id = "t3-1-" + std::to_string(jobs.size()),
                    .name = "test",
                    .arguments = {{"x", value}},
                    .answer = {}});
  std::vector<ToolJob*> pointers;
  for (ToolJob& job : jobs) pointers.push_back(&job);
  box.call(pointers);
  box.log();
  std::vector<ToolAnswer> answers;
  for (ToolJob& job : jobs) answers.push_back(std::move(job.answer));
  return answers;
}
ToolAnswer answer_of(ToolBox& box, const std::string& value) {
  return answers_of(box, {value}).at(0);
}

/// Answers each call by what its argument holds.
const char* const kTool =
    "program:while read -r line; do case \"$line\" in *text*) printf '%s\\n' '\"a\\nb\"';; "
    "*object*) echo '{\"content\": {\"a\": [1, \"b\"]}}';; *words*) echo '{\"content\": \"w\"}';; "
    "*error*) echo '{\"error\": \"no such city\"}';; *number*) echo 1.50;; *null*) echo null;; "
    "*die*) echo oops >&2; exit 3;; *hang*) sleep 100;; *junk*) printf '{\\n1\\n';; "
    "*flood*) exec yes | tr -d '\\n';; *) echo '{\"other\": 1}';; esac; done";

TEST(ToolAnswer, IsTextOrJson) {
  const auto box = tool(kTool);
  const auto answers = answers_of(*box, {"text", "object", "words", "number", "null", "other"});
  std::vector<std::string> contents;
  for (const ToolAnswer& answer : answers) {
    contents.push_back(answer.content);
    EXPECT_FALSE(answer.is_error);
    EXPECT_FALSE(answer.breakdown);
  }
  EXPECT_THAT(contents,
              ElementsAre("a\nb", R"({"a": [1, "b"]})", "w", "1.5", "null", R"({"other": 1})"));
}

TEST(ToolAnswer, AnErrorOfTheToolIsReadByTheModel) {
  const auto box = tool(kTool);
  const ToolAnswer answer = answer_of(*box, "error");
  EXPECT_EQ(answer.content, R"({"error": "no such city"})");
  EXPECT_TRUE(answer.is_error);
  EXPECT_FALSE(answer.breakdown);
}

TEST(ProgramTool, SeesTheCall) {
  const testing::TempDir folder;
  const auto box = tool("program:read -r line; printf '%s' \"$line\" > " +
                        (folder / "line").string() + "; echo 1");
  answer_of(*box, "a\"b");
  EXPECT_EQ(parse_json_file(folder / "line"),
            json(R"({"name": "test", "arguments": {"x": "a\"b"}, "id": "t3-1-0",
                     "trajectory": "t3", "columns": {"solution": "42"}})"));
}

TEST(ProgramTool, OneThatBreaksIsEndedAndStartsAnew) {
  const auto box = tool(kTool, {.tool_timeout = 0.4});
  const auto expect_breakdown = [&](const std::string& value, const std::string& words) {
    const auto begin = steady_clock::now();
    const ToolAnswer answer = answer_of(*box, value);
    EXPECT_TRUE(answer.is_error);
    EXPECT_THAT(answer.breakdown.value_or("none"), HasSubstr(words));
    EXPECT_THAT(answer.content, HasSubstr("{\"error\": \"tool test: "));
    EXPECT_LT(steady_clock::now() - begin, milliseconds(10'000)) << value;
    // The next call is none of its business.
    EXPECT_EQ(answer_of(*box, "words").content, "w");
  };
  expect_breakdown("hang", "expected an answer within 0.4 s, got none");
  expect_breakdown("die", "expected an answer, got exit code 3 (the end of its stderr: oops)");
  expect_breakdown("junk", "expected a line of JSON, got {");
  expect_breakdown("flood", "expected an answer of one line of at most 4194304 bytes, got more");
}

TEST(ProgramTool, OneThatNeverAnswersIsNotWaitedForByEveryCall) {
  const auto box = tool(kTool, {.tool_timeout = 0.2});
  for (const int asked : {3, 1}) {
    const auto begin = steady_clock::now();
    const auto answers = answers_of(*box, std::vector<std::string>(40, "hang"));
    EXPECT_LT(steady_clock::now() - begin, milliseconds(4'000));
    for (int i = 0; i < 40; ++i)
      EXPECT_THAT(answers[static_cast<size_t>(i)].breakdown.value_or(""),
                  HasSubstr(i < asked ? "within 0.2 s" : "not called, after the last 3 calls"));
  }
  // It is tried again in the next round.
  EXPECT_EQ(answers_of(*box, {"words", "hang", "words"})[2].content, "w");
}

// Otherwise each call would get the answer of another one.
TEST(ProgramTool, ALineThatIsNoAnswerIsFound) {
  const auto box = tool("program:while read -r line; do printf '1\\n2\\n'; done");
  EXPECT_EQ(answer_of(*box, "a").content, "1");
  EXPECT_THAT(answer_of(*box, "b").breakdown.value_or(""),
              HasSubstr("expected one line for each that it is asked, got another one: 2"));
  EXPECT_EQ(answer_of(*box, "c").content, "1");
}

TEST(ProgramTool, SeveralProcessesWorkAtOnce) {
  const auto box =
      tool("program:while read -r line; do sleep 0.3; echo $$; done", {.tool_workers = 4});
  const auto begin = steady_clock::now();
  const auto answers = answers_of(*box, {"a", "b", "c", "d", "e", "f", "g", "h"});
  // One after the other they would take 2.4 s.
  EXPECT_LT(steady_clock::now() - begin, milliseconds(2'000));
  std::set<std::string> processes;
  for (const ToolAnswer& answer : answers) processes.insert(answer.content);
  EXPECT_EQ(processes.size(), 4u);
}

TEST(UrlTool, IsPostedTheCall) {
  std::atomic<int> at_once{0}, most{0};
  std::string seen;
  SocketServer server([&](SocketConnection& connection, const SocketRequest& request) {
    const Json body = json(request.body);
    if (body["arguments"]["x"] == "see")
      seen = request.method + " " + request.target + " " + request.body;
    most = std::max<int>(most, ++at_once);
    connection.wait(milliseconds(200));
    --at_once;
    connection.answer(200, Json{{"content", body["arguments"]["x"]}}.dump());
  });
  const auto box = tool(server.url() + "/tools/add", {.tool_workers = 3});
  const auto answers = answers_of(*box, {"a", "see", "c"});
  EXPECT_EQ(answers[0].content, "a");
  EXPECT_EQ(answers[1].content, "see");
  EXPECT_EQ(answers[2].content, "c");
  EXPECT_EQ(most, 3);
  EXPECT_EQ(seen.substr(0, 16), "POST /tools/add ");
  EXPECT_EQ(json(seen.substr(16)),
            json(R"({"name": "test", "arguments": {"x": "see"}, "id": "t3-1-1",
                     "trajectory": "t3", "columns": {"solution": "42"}})"));
}

TEST(UrlTool, AFailureIsReadByTheModelAndNotAskedAgain) {
  std::atomic<int> requests{0};
  SocketServer server([&](SocketConnection& connection, const SocketRequest& request) {
    ++requests;
    const Json value = json(request.body)["arguments"]["x"];
    if (value == "hang") connection.wait(milliseconds(20'000));
    if (value == "500") connection.answer(500, R"({"detail": "out of order"})");
    if (value == "junk") connection.answer(200, "{");
    if (value == "error") connection.answer(200, R"({"error": "no such city"})");
  });
  const auto box = tool(server.url(), {.tool_timeout = 0.4});
  EXPECT_THAT(answer_of(*box, "hang").breakdown.value_or(""), HasSubstr("0.4"));
  EXPECT_THAT(answer_of(*box, "500").breakdown.value_or(""), HasSubstr("got 500: "));
  EXPECT_THAT(answer_of(*box, "junk").breakdown.value_or(""), HasSubstr("expected JSON, got {"));
  EXPECT_EQ(answer_of(*box, "error").content, R"({"error": "no such city"})");
  EXPECT_FALSE(answer_of(*box, "error").breakdown);
  EXPECT_EQ(requests, 5);
  const auto nobody = tool("http://127.0.0.1:" + std::to_string(testing::dead_port()));
  EXPECT_TRUE(answer_of(*nobody, "a").breakdown);
}

}  // namespace
}  // namespace lockstep::agent
