// Rows of files, and the checks that all of them get.
// SPDX-License-Identifier: Apache-2.0
#include "text/row.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "text/row_files.h"

namespace lockstep::text {
namespace {

using ::testing::ElementsAre;

class RowTest : public ::testing::Test {
 protected:
  std::vector<std::string> wheres(const std::string& text, const char* name = "rows.jsonl") {
    std::vector<std::string> result;
    const std::string path = directory_.write(name, text).string();
    for_each_row(path, [&](const std::string& where, Json&&) {
      result.push_back(where.substr(path.size()));
    });
    return result;
  }
  testing::TempDir directory_;
};

TEST_F(RowTest, VisitsRowsWithTheirLine) {
  EXPECT_THAT(wheres("{\"text\": \"a\"}\n\n{\"text\": \"b\", \"images\": []}\n"),
              ElementsAre(":1", ":3"));
  EXPECT_THAT(wheres("[{\"text\": \"a\"},\n{\"text\": \"b\"}]", "rows.json"),
              ElementsAre(":1", ":2"));
  EXPECT_THAT(wheres("text\na\nb\n", "rows.csv"), ElementsAre(":2", ":3"));
}

TEST_F(RowTest, KeepsTheDigitsOfNumbers) {
  const std::string text = "{\"solution\":987654321098765432109876543210,\"x\":[1e-400,0.1]}";
  std::vector<std::string> rows;
  for_each_row(directory_.write("rows.jsonl", text),
               [&](const std::string&, Json&& row) { rows.push_back(dump_json(row)); });
  EXPECT_THAT(rows, ElementsAre(text));
  // A conversation has doubles, and says where one has no room.
  Json row = parse_json(R"({"messages":[{"role":"user","content":"q","x":1e400}]})", "t", "t",
                        {.keep_digits = true});
  EXPECT_ERROR(take_conversation(std::move(row), "rows:7"), FormatError, "bad-row", "rows:7");
}

TEST_F(RowTest, RefusesWhatNoCommandTakes) {
  EXPECT_ERROR(wheres(""), FormatError, "bad-row", "expected at least one row");
  EXPECT_ERROR(wheres("{}\n[1]\n"), FormatError, "bad-row", "rows.jsonl:2: expected a JSON object");
  EXPECT_ERROR(wheres("{}\n{\"a\": }\n"), FormatError, "bad-row", "rows.jsonl:2");
  EXPECT_ERROR(wheres("{\"images\": [\"a.png\"]}\n"), FormatError, "bad-row", "got images");
  EXPECT_ERROR(wheres("{\"videos\": \"a.mp4\"}\n"), FormatError, "bad-row", "got videos");
  EXPECT_ERROR(wheres("{\"Image\": \"a.png\"}\n"), FormatError, "bad-row", "got Image");
  EXPECT_THROW(for_each_row(directory_.path() / "none.jsonl", [](const std::string&, Json&&) {}),
               IoError);
}

TEST_F(RowTest, SaysWhatIsWrongWithTheFormOfAFile) {
  const char* const words =
      ":1: expected an object a line, or a .json file with a list of objects, got an object that "
      "goes on behind its line (hint: jq -c . '";
  const std::string spread = "{\n  \"a\": 1\n}\n{\n  \"a\": 2\n}\n";
  for (const char* name : {"rows.jsonl", "rows.json"}) {
    EXPECT_ERROR(wheres(spread, name), FormatError, "bad-row", words);
    EXPECT_ERROR(read_rows(directory_.write(name, spread), /*strict=*/false), FormatError,
                 "bad-row", words);
    EXPECT_ERROR(wheres("{\"data\": [\n{\"a\": 1}]}", name), FormatError, "bad-row", words);
  }
  // One that is broken off among others is a bad row.
  const RawFile broken =
      read_rows(directory_.write("rows.jsonl", "{\"a\":\n{\"a\": 1}\n"), /*strict=*/false);
  EXPECT_EQ(broken.rows.size(), 1u);
  EXPECT_EQ(broken.bad_rows.size(), 1u);
  for (const char* header : {"a;b", "a\tb"})
    EXPECT_ERROR(wheres(header + std::string("\n1;2\n"), "rows.csv"), FormatError, "bad-row",
                 ":1: expected commas between the names of columns, got \"a");
}

TEST_F(RowTest, IdsAreWholeNumbersInsideTheVocabulary) {
  const auto ids = [](const char* text) {
    return ids_of(parse_json(text, "row"), "ids", 10, "rows:4");
  };
  EXPECT_THAT(ids(R"({"ids": [0, 9]})"), ElementsAre(0, 9));
  EXPECT_ERROR(ids(R"({"ids": [10]})"), FormatError, "bad-row",
               "rows:4: expected ids in [0, 10) in ids, got 10");
  EXPECT_ERROR(ids(R"({"ids": [-1]})"), FormatError, "bad-row", "got -1");
  EXPECT_ERROR(ids(R"({"ids": [18446744073709551615]})"), FormatError, "bad-row",
               "got 18446744073709551615");
  EXPECT_ERROR(ids(R"({"ids": [1.5]})"), FormatError, "bad-row", "whole numbers");
  EXPECT_ERROR(ids(R"({"ids": "1"})"), FormatError, "bad-row", "expected a list");
}

TEST_F(RowTest, ErrorsOfTextAreMovedToTheRow) {
  EXPECT_ERROR(
      at_row("rows:3", []() -> int { fail<FormatError>("bad-text", "byte 4", "expected UTF-8"); }),
      FormatError, "bad-row", "rows:3: byte 4: expected UTF-8");
  EXPECT_ERROR(
      at_row("rows:3",
             []() -> int { fail<FormatError>("bad-template", "chat:2", "no {}", "macro"); }),
      FormatError, "bad-template", "chat:2");
  EXPECT_EQ(at_row("rows:3", [] { return 5; }), 5);
}

TEST_F(RowTest, ReadsMasksAndNumbersOfRecordedRows) {
  const Json row =
      parse_json(R"({"mask": [0, 1, 1], "half": [0.5, 1], "bad": [0, 2], "text": "1"})", "row");
  EXPECT_THAT(mask_of(row, "mask", 3, "rows:1"), ElementsAre(0, 1, 1));
  EXPECT_THAT(numbers_of(row, "half", 2, "token", "rows:1"), ElementsAre(0.5, 1));
  EXPECT_ERROR(mask_of(row, "mask", 2, "rows:1"), FormatError, "bad-row",
               "expected 2 entries in mask, one an input id, got 3");
  EXPECT_ERROR(mask_of(row, "bad", 2, "rows:1"), FormatError, "bad-row", "expected 0 or 1 in bad");
  EXPECT_ERROR(mask_of(row, "none", 2, "rows:1"), FormatError, "bad-row", "in none, got none");
  EXPECT_ERROR(numbers_of(row, "mask", 2, "token", "rows:1"), FormatError, "bad-row",
               "expected 2 numbers in mask, one for each token, got 3");
  EXPECT_ERROR(numbers_of(row, "text", 1, "token", "rows:1"), FormatError, "bad-row", "got string");
}

TEST_F(RowTest, TakesTheConversationOutOfARow) {
  const Json row = parse_json(
      R"({"messages": [{"from": "human", "value": "a"}], "tools": "[]", "solution": 1,
          "chat_template_kwargs": "{\"enable_thinking\": false}"})",
      "row");
  const Row got = take_conversation(Json(row), "rows:1");
  EXPECT_EQ(got.messages, parse_json(R"([{"role": "user", "content": "a"}])", "test"));
  EXPECT_TRUE(got.tools.is_null());
  EXPECT_EQ(got.chat_template_kwargs, parse_json(R"({"enable_thinking": false})", "test"));
  EXPECT_EQ(got.columns, parse_json(R"({"solution": 1})", "test"));
  // As transformers would hand them on.
  const Row raw = take_conversation(Json(row), "rows:1", MessageForm::kAsTheyStand);
  EXPECT_EQ(raw.messages, row["messages"]);
  EXPECT_EQ(raw.tools, Json::array());
  EXPECT_ERROR(
      take_conversation({{"messages", Json::array()}}, "rows:1", MessageForm::kAsTheyStand),
      FormatError, "bad-row", "at least one message");
}

}  // namespace
}  // namespace lockstep::text
