// Chat templates against transformers' apply_chat_template.
// SPDX-License-Identifier: Apache-2.0
#include "text/chat_template.h"

#include <cstdlib>
#include <filesystem>
#include <map>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "tests/support/expect_error.h"

namespace lockstep::text {
namespace {

const std::filesystem::path kData =
    std::filesystem::path(LOCKSTEP_SOURCE_DIR) / "tests" / "data" / "chat_templates";

/// The special tokens that tools/golden/chat_template.py gives its tokenizer.
const Json kSpecialTokens = {{"bos_token", "<s>"},
                             {"eos_token", "<|im_end|>"},
                             {"pad_token", "<|endoftext|>"},
                             {"unk_token", "<unk>"}};

std::string render(const std::string& source, const Json& messages, const Json& variables = {}) {
  const ChatTemplate chat(source, "template", kSpecialTokens);
  return chat.render({.messages = &messages, .variables = &variables});
}

/// Renders every line of expected.jsonl; returns how many there were.
int64_t expect_all_renderings(const std::filesystem::path& folder) {
  std::map<std::string, Json> conversations;
  for_each_json_line(folder / "conversations.jsonl", [&](int64_t, Json&& row) {
    const std::string name = row.at("name");
    conversations[name] = std::move(row);
  });
  std::map<std::string, ChatTemplate> templates;
  int64_t count = 0;
  for_each_json_line(folder / "expected.jsonl", [&](int64_t line, Json&& row) {
    ++count;
    const std::string name = row.at("template");
    if (!templates.contains(name))
      templates.emplace(name, ChatTemplate(read_file(folder / name), name, kSpecialTokens));
    const Json& conversation = conversations.at(row.at("conversation"));
    const Json& tools = conversation.at("tools");
    const ChatInputs inputs{.messages = &conversation.at("messages"),
                            .tools = tools.is_null() ? nullptr : &tools,
                            .add_generation_prompt = row.at("add_generation_prompt"),
                            .variables = &row.at("variables")};
    SCOPED_TRACE(fmt::format("line {}: {} with {}", line, name, row.at("conversation").dump()));
    try {
      const std::string text = templates.at(name).render(inputs);
      if (row.contains("text")) {
        EXPECT_EQ(text, row.at("text").get<std::string>());
      } else {
        ADD_FAILURE() << "expected an error, got " << text;
      }
    } catch (const FormatError& error) {
      EXPECT_FALSE(row.contains("text")) << error.what();
      EXPECT_EQ(error.code(), "bad-row") << error.what();
      if (row.contains("raised")) {
        EXPECT_THAT(error.what(), ::testing::EndsWith(": " + row.at("raised").get<std::string>()));
      }
    }
  });
  return count;
}

TEST(ChatTemplate, EqualsTransformersForQwenTemplates) {
  EXPECT_GE(expect_all_renderings(kData), 500);
}

// For a one-off comparison over many templates: see tools/golden/chat_template.py --all.
TEST(ChatTemplate, EqualsTransformersForTemplatesOfAFolder) {
  const char* folder = std::getenv("LOCKSTEP_CHAT_TEMPLATES");
  if (folder == nullptr) GTEST_SKIP() << "LOCKSTEP_CHAT_TEMPLATES names no folder";
  EXPECT_GT(expect_all_renderings(folder), 0);
}

}  // namespace
}  // namespace lockstep::text
