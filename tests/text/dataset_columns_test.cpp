// Columns of rows: new and nested names, and what is said where one is missing.
// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/text/dataset_fixture.h"

namespace lockstep::text {
namespace {

using ::testing::ElementsAre;

TEST_F(DatasetTest, NamesNestedColumnsWithDots) {
  DatasetOptions options;
  options.columns = {{"reward_model.ground_truth", "solution"}};
  const std::string verl =
      R"({"prompt":[{"role":"user","content":"hi"}],"reward_model":{"ground_truth":"7","style":"rule"}})";
  const Row got = row(verl, options);
  EXPECT_EQ(got.columns,
            json(R"({"reward_model":{"ground_truth":"7","style":"rule"},"solution":"7"})"));
  EXPECT_THAT(load(verl, options).mapping_notes,
              ElementsAre("reward_model.ground_truth -> solution", "prompt -> messages"));
  // A name that has dots itself, elements of lists, text that is JSON, and rows without it.
  options.columns = {{"a.b", "query"}, {"x.answers.1", "solution"}};
  const Dataset rows = load(
      "{\"a.b\":\"hi\",\"a\":{\"b\":\"no\"},\"x\":{\"answers\":[1,2]}}\n"
      "{\"a\":{\"b\":\"hi\"},\"x\":\"{\\\"answers\\\":[3,4]}\"}\n"
      "{\"a.b\":\"hi\"}",
      options);
  EXPECT_EQ(rows.rows[0].columns["solution"], 2);
  EXPECT_EQ(rows.rows[1].columns["solution"], 4);
  EXPECT_FALSE(rows.rows[2].columns.contains("solution"));
  for (const Row& each : rows.rows) EXPECT_EQ(each.messages[0]["content"], "hi");
  // A whole conversation.
  options.columns = {{"data.turns", "messages"}};
  EXPECT_EQ(
      messages(R"({"data":{"turns":[{"from":"human","value":"hi"},{"from":"gpt","value":"ho"}]}})",
               options),
      kHiHo);
  for (const char* missing :
       {"data.nothing", "data.turns.9", "data.turns.0.x.y", "data.", ".", "x"}) {
    SCOPED_TRACE(missing);
    options.columns = {{missing, "query"}};
    EXPECT_ERROR(load(R"({"data":{"turns":[1]},"query":"a"})", options), ConfigError, "bad-config",
                 "which no file has (the first row has data.turns, query)");
  }
  options.columns = {{"a.b", "query"}};
  EXPECT_ERROR(load(R"({"a":{"b":"hi"},"query":"q"})", options), ConfigError, "bad-config",
               "\"query\" twice");
}

TEST_F(DatasetTest, SaysWhichFlagReadsColumnsThatItDoesNotKnow) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"chosen":[{"role":"user","content":"a"}],"rejected":[]})",
       R"(--columns '{"chosen": "messages"}' reads the conversation)"},
      {R"({"id":1,"title":"a","body":"b"})", R"(--columns '{"title": "query"}')"},
      {R"({"text":"The sky is blue."})", "rows of input_ids"},
      {R"({"id":1})", R"(--columns '{"NAME": "query"}')"},
      {R"({"data":{"q":"a"}})", "got columns data.q"},
  };
  for (const auto& [text, words] : cases) {
    SCOPED_TRACE(text);
    EXPECT_ERROR(load(text), FormatError, "bad-row", words);
  }
}

TEST_F(DatasetTest, SaysHowAColumnBecomesTheSolution) {
  const auto need = [&](std::string_view text) {
    require_column(row(text), "solution", "the reward accuracy");
  };
  need(R"({"query":"a","solution":1})");
  EXPECT_ERROR(need(R"({"question":"1+1?","answer":"2"})"), FormatError, "bad-row",
               "rows.jsonl:1: expected a column solution for the reward accuracy, got question, "
               "answer (hint: --columns '{\"answer\": \"solution\"}' gives answer that name)");
  EXPECT_ERROR(
      need(R"({"messages":[{"role":"user","content":"a"}],"extra":{"gold":{"answer":1}}})"),
      FormatError, "bad-row", R"(--columns '{"extra.gold.answer": "solution"}')");
  EXPECT_ERROR(need(R"({"query":"a","level":1})"), FormatError, "bad-row",
               R"(got query, level (hint: --columns '{"NAME": "solution"}')");
  // All columns are named, those that became the conversation too, and none twice.
  EXPECT_ERROR(need(R"({"prompt":[{"role":"user","content":"a"}],"completion":"b","id":1})"),
               FormatError, "bad-row", "got prompt, completion, id (hint");
  EXPECT_ERROR(need(R"({"system":"s","Question":"a","Answer":"b"})"), FormatError, "bad-row",
               R"(got Question, Answer, system (hint: --columns '{"Answer": "solution"}')");
}

TEST_F(DatasetTest, SaysHowAColumnBecomesTheAnswer) {
  const auto need = [&](std::string_view text) { require_answer(row(text)); };
  need(R"({"question":"1+1?","answer":"2"})");
  EXPECT_ERROR(need(R"({"prompt":[{"role":"user","content":"a"}],"gold":"b"})"), FormatError,
               "bad-row", R"(--columns '{"gold": "completion"}')");
  EXPECT_ERROR(need(R"({"question":"a","note":"b"})"), FormatError, "bad-row",
               "expected a turn of the assistant to learn from, got none in columns question, note "
               "(hint: --columns '{\"NAME\": \"response\"}'");
  EXPECT_ERROR(need(R"({"messages":[{"role":"user","content":"a"}]})"), FormatError, "bad-row",
               "got none in columns messages");
  EXPECT_ERROR(need(R"({"prompt":"a","chosen":"b","rejected":"c"})"), FormatError, "bad-row",
               R"(got none in columns prompt, chosen, rejected (hint: --columns '{"chosen": )");
  const Dataset rows = load(R"({"question":"a","answer":"b"}
                               {"question":"c","answer":null})");
  EXPECT_ERROR(require_answer(rows.rows[1]), FormatError, "bad-row",
               "rows.jsonl:2: expected a turn of the assistant to learn from, got null in answer");
}

TEST_F(DatasetTest, TakesTheFirstOfSeveralAnswers) {
  EXPECT_EQ(messages(R"({"question":"hi","answers":["ho","hu"]})"), kHiHo);
  EXPECT_ERROR(load(R"({"question":"hi","answers":[["ho"]]})"), FormatError, "bad-row",
               "expected text in answers");
}

TEST_F(DatasetTest, RenamesColumnsFirst) {
  DatasetOptions options;
  options.columns = {{"answer", "solution"}};
  const Row got = row(R"({"question":"hi","answer":"ho"})", options);
  EXPECT_EQ(got.messages, kHiHo);
  EXPECT_EQ(got.columns, json(R"({"solution":"ho"})"));
  EXPECT_ERROR(load(R"({"question":"hi"})", options), ConfigError, "bad-config",
               "\"answer\", which no file has");
  EXPECT_ERROR(load(R"({"question":"hi","answer":"a","solution":"b"})", options), ConfigError,
               "bad-config", "\"solution\" twice");
  options.columns = {{"answer", 1}};
  EXPECT_ERROR(load(R"({"question":"hi"})", options), ConfigError, "bad-config", "--columns");
  options.columns = Json::array();
  EXPECT_ERROR(load(R"({"question":"hi"})", options), ConfigError, "bad-config", "--columns");
}

TEST_F(DatasetTest, GuessesNothingWhenTold) {
  DatasetOptions options;
  options.disable_auto_column_mapping = true;
  EXPECT_EQ(row(R"({"query":"hi","response":"ho","answer":"x"})", options).messages, kHiHo);
  EXPECT_ERROR(load(R"({"question":"hi"})", options), FormatError, "bad-row",
               "got columns question");
}

}  // namespace
}  // namespace lockstep::text
