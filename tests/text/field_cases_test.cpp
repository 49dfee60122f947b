// Rows and templates that people met in the field (tests/data/field_cases): what sft trains on,
// what grpo asks, and what is said where a row cannot be read.
// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "tests/support/expect_error.h"
#include "tests/support/json_lines.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "text/dataset.h"
#include "text/default_tokenizer.h"
#include "text/row_encoder.h"

namespace lockstep::text {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Texts = std::vector<std::string>;

const fs::path kData = testing::source_dir() / "tests" / "data";
constexpr int64_t kVocabSize = 2048;

/// A checkpoint's text files: the tokenizer of new-model, and a template.
void write_checkpoint(const testing::TempDir& folder, const std::string& chat_template) {
  folder.write("tokenizer.json", dump_json(default_tokenizer_json(kVocabSize)));
  folder.write("tokenizer_config.json", dump_json(default_tokenizer_config()));
  folder.write("chat_template.jinja", chat_template);
}

std::map<std::string, std::string> templates() {
  std::map<std::string, std::string> result{{"new-model", std::string(default_chat_template())}};
  for (const auto& entry : fs::directory_iterator(kData / "chat_templates"))
    if (entry.path().extension() == ".jinja")
      result[entry.path().filename().string()] = read_file(entry.path());
  return result;
}

Texts trained_texts(RowEncoder& encoder, const Row& row) {
  const EncodedDialogue dialogue = encoder.dialogue(row, LossTurns::kAll);
  Texts texts;
  for (size_t t = 0; t < dialogue.ids.size(); ++t) {
    if (!dialogue.mask[t]) continue;
    if (t == 0 || !dialogue.mask[t - 1]) texts.emplace_back();
    texts.back() += encoder.chat().tokenizer().decode(std::span(dialogue.ids).subspan(t, 1));
  }
  return texts;
}

/// What each kind of row trains on with new-model's template, which adds nothing.
const std::map<std::string, Texts> kExpected = {
    {"a turn that its row excludes", {"5<|im_end|>"}},
    {"a conversation that its template renders whole", {"Welcome!<|im_end|>", "fine<|im_end|>"}},
    {"two assistant turns in a row", {"one<|im_end|>", "two<|im_end|>"}},
    {"OpenAI's own form of tool calls",
     {"<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n"
      "</tool_call><|im_end|>",
      "4 degrees<|im_end|>"}},
    {"ms-swift's pairs", {"r<|im_end|>"}},
    {"query and response", {"2<|im_end|>"}},
    {"nested columns can be named", {"2<|im_end|>"}},
};

TEST(FieldCases, SftTrainsOnEveryKindOfConversation) {
  std::map<std::string, Row> rows;
  for_each_json_line(kData / "field_cases" / "conversations.jsonl", [&](int64_t, Json&& line) {
    const testing::TempDir folder;
    const std::string file = folder.write("rows.jsonl", dump_json(line["row"])).string();
    DatasetOptions options{.dataset = {file}};
    if (line["kind"].get<std::string>().starts_with("nested columns"))
      options.columns = {{"reward_model.ground_truth", "response"}};
    rows[line["kind"]] = load_dataset(options).rows.at(0);
  });
  EXPECT_EQ(rows.size(), kExpected.size());
  for (const auto& [name, source] : templates()) {
    const testing::TempDir checkpoint;
    write_checkpoint(checkpoint, source);
    RowEncoder encoder(checkpoint.path(), kVocabSize);
    for (const auto& [kind, row] : rows) {
      SCOPED_TRACE(name + ": " + kind);
      const auto expected =
          std::find_if(kExpected.begin(), kExpected.end(),
                       [&](const auto& known) { return kind.starts_with(known.first); });
      ASSERT_NE(expected, kExpected.end()) << "a kind without an expectation";
      const Texts texts = trained_texts(encoder, row);
      if (name == "new-model") {
        EXPECT_EQ(texts, expected->second);
        continue;
      }
      // Other templates write thinking blocks and calls in their own way.
      ASSERT_EQ(texts.size(), expected->second.size());
      for (size_t i = 0; i < texts.size(); ++i) {
        const bool is_call = expected->second[i].starts_with("<tool_call>");
        EXPECT_THAT(texts[i], is_call ? HasSubstr("Oslo") : HasSubstr(expected->second[i]));
        EXPECT_THAT(texts[i], ::testing::EndsWith("<|im_end|>"));
      }
    }
  }
}

TEST(FieldCases, GrpoReadsTheSolutionOrSaysWhichFlagDoes) {
  for_each_json_line(kData / "field_cases" / "conversations.jsonl", [&](int64_t, Json&& line) {
    const std::string kind = line["kind"];
    SCOPED_TRACE(kind);
    const testing::TempDir folder;
    const std::string file = folder.write("rows.jsonl", dump_json(line["row"])).string();
    const Row row = load_dataset({.dataset = {file}}).rows.at(0);
    if (kind.starts_with("nested columns")) {
      const Json columns = {{"reward_model.ground_truth", "solution"}};
      const Row named = load_dataset({.dataset = {file}, .columns = columns}).rows.at(0);
      EXPECT_EQ(named.columns["solution"], "2");
      EXPECT_EQ(row.columns["solution"], "2") << "verl's rows are known";
      require_column(row, "solution", "the reward accuracy");
    } else {
      const char* hint = kind.starts_with("query and response")
                             ? R"(question, answer (hint: --columns '{"answer": "solution"}')"
                             : "expected a column solution for the reward accuracy, got ";
      EXPECT_ERROR(require_column(row, "solution", "the reward accuracy"), FormatError, "bad-row",
                   hint);
    }
  });
}

TEST(FieldCases, NamedChatTemplatesAreChosenByTools) {
  int64_t found = 0;
  for_each_json_line(kData / "field_cases" / "checkpoints.jsonl", [&](int64_t, Json&& line) {
    if (!line.contains("tokenizer_config")) return;
    ++found;
    Json config = default_tokenizer_config();
    config.update(line["tokenizer_config"]);
    const testing::TempDir folder;
    folder.write("tokenizer.json", dump_json(default_tokenizer_json(kVocabSize)));
    folder.write("tokenizer_config.json", dump_json(config));
    RowEncoder encoder(folder.path(), kVocabSize);
    Row row;
    row.messages = Json::array({{{"role", "user"}, {"content", "hi"}}});
    EXPECT_EQ(encoder.prompt(row).text, "PLAIN hi");
    row.tools = Json::array({Json::object()});
    EXPECT_EQ(encoder.prompt(row).text, "WITH hi");
    // Files of their own go first.
    folder.write("chat_template.jinja", "FILE {{ messages[0].content }}");
    EXPECT_EQ(RowEncoder(folder.path(), kVocabSize).prompt(row).text, "FILE hi");
    fs::create_directory(folder / "additional_chat_templates");
    folder.write("additional_chat_templates/tool_use.jinja", "MORE {{ messages[0].content }}");
    EXPECT_EQ(RowEncoder(folder.path(), kVocabSize).prompt(row).text, "MORE hi");
  });
  EXPECT_EQ(found, 1);
}

}  // namespace
}  // namespace lockstep::text
