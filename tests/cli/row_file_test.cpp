// Rows: the checks that every command shares, and outputs that are there whole or not at all.
// SPDX-License-Identifier: Apache-2.0
#include "cli/row_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::cli {
namespace {

using ::testing::ElementsAre;

class RowFile : public ::testing::Test {
 protected:
  std::string write(const std::string& text) {
    write_file(directory.path() / "rows.jsonl", text);
    return (directory.path() / "rows.jsonl").string();
  }
  std::vector<std::string> wheres(const std::string& text) {
    std::vector<std::string> result;
    const std::string path = write(text);
    for_each_row(path, [&](const std::string& where, Json&&) {
      result.push_back(where.substr(path.size()));
    });
    return result;
  }
  testing::TempDir directory;
};

TEST_F(RowFile, VisitsRowsWithTheirLine) {
  EXPECT_THAT(wheres("{\"text\": \"a\"}\n\n{\"text\": \"b\", \"images\": []}\n"),
              ElementsAre(":1", ":3"));
}

TEST_F(RowFile, RefusesWhatNoCommandTakes) {
  EXPECT_ERROR(wheres(""), FormatError, "bad-row", "expected at least one row");
  EXPECT_ERROR(wheres("{}\n[1]\n"), FormatError, "bad-row", "rows.jsonl:2: expected a JSON object");
  EXPECT_ERROR(wheres("{}\n{\"a\": }\n"), FormatError, "bad-row", "rows.jsonl:2");
  EXPECT_ERROR(wheres("{\"images\": [\"a.png\"]}\n"), FormatError, "bad-row", "got images");
  EXPECT_ERROR(wheres("{\"videos\": \"a.mp4\"}\n"), FormatError, "bad-row", "got videos");
  EXPECT_THROW(for_each_row(directory.path() / "none.jsonl", [](const std::string&, Json&&) {}),
               IoError);
}

TEST_F(RowFile, IdsAreWholeNumbersInsideTheVocabulary) {
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

TEST_F(RowFile, TheTextModelsVocabularyCounts) {
  const auto size = [this](const char* config) {
    write_file(directory.path() / "config.json", config);
    return read_vocab_size(directory.path());
  };
  EXPECT_EQ(size(R"({"vocab_size": 100, "text_config": {"vocab_size": 50}})"), 50);
  EXPECT_EQ(size(R"({"vocab_size": 100, "text_config": {}})"), 100);
  EXPECT_ERROR(size(R"({"vocab_size": "100"})"), FormatError, "bad-config", "vocab_size");
  EXPECT_ERROR(size(R"([])"), FormatError, "bad-config", "vocab_size");
}

TEST_F(RowFile, ErrorsOfTextAreMovedToTheRow) {
  EXPECT_ERROR(
      at_row("rows:3", []() -> int { fail<FormatError>("bad-text", "byte 4", "expected UTF-8"); }),
      FormatError, "bad-row", "rows:3: byte 4: expected UTF-8");
  EXPECT_ERROR(
      at_row("rows:3",
             []() -> int { fail<FormatError>("bad-template", "chat:2", "no {}", "macro"); }),
      FormatError, "bad-template", "chat:2");
  EXPECT_EQ(at_row("rows:3", [] { return 5; }), 5);
}

TEST_F(RowFile, AnOutputAppearsAtCommit) {
  const std::filesystem::path path = directory.path() / "out.jsonl";
  {
    RowWriter dropped(path.string(), /*overwrite=*/false, "--output", {});
    dropped.write(Json{{"a", 1}});
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
  RowWriter writer(path.string(), /*overwrite=*/false, "--output", {});
  writer.write(Json{{"text", "é"}});
  writer.write(Json{{"ids", {1, 2}}});
  writer.commit();
  EXPECT_EQ(read_file(path), "{\"text\":\"é\"}\n{\"ids\":[1,2]}\n");
  EXPECT_ERROR(RowWriter(path.string(), /*overwrite=*/false, "--output", {}), ConfigError,
               "output-exists", "--output");
  EXPECT_NO_THROW(RowWriter(path.string(), /*overwrite=*/true, "--output", {}));
}

}  // namespace
}  // namespace lockstep::cli
