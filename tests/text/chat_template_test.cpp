// Chat templates against transformers' apply_chat_template.
// SPDX-License-Identifier: Apache-2.0
#include "text/chat_template.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "tests/support/expect_error.h"
#include "tests/support/json_lines.h"
#include "tests/support/source_dir.h"
#include "text/chat_encoder.h"
#include "text/default_tokenizer.h"

namespace lockstep::text {
namespace {

const std::filesystem::path kData = testing::source_dir() / "tests" / "data" / "chat_templates";

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

TEST(ChatTemplate, SeesSpecialTokensAndVariables) {
  const Json messages = {{{"role", "user"}, {"content", "hi"}}};
  EXPECT_EQ(render("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ x }}", messages,
                   {{"x", true}}),
            "<s>hi<|im_end|>True");
  // A variable wins over a special token, as in transformers.
  EXPECT_EQ(render("{{ bos_token }}", messages, {{"bos_token", "<b>"}}), "<b>");
  EXPECT_EQ(render("{{ tools is none }}{{ documents is none }}", messages), "TrueTrue");
}

TEST(ChatTemplate, DropsNullsOfMessagesAndKnowsReasoningUnderOtherNames) {
  EXPECT_EQ(render("{{ 'content' in messages[0] }}", {{{"role", "user"}, {"content", nullptr}}}),
            "False");
  EXPECT_EQ(render("{{ messages[0].reasoning_content }}|{{ messages[0].thinking }}",
                   {{{"role", "assistant"}, {"reasoning", "r"}}}),
            "r|r");
}

TEST(ChatTemplate, RefusesRowsWithoutMessages) {
  EXPECT_ERROR(render("x", Json::array()), FormatError, "bad-row", "got an empty list");
  EXPECT_ERROR(render("x", {{"role", "user"}}), FormatError, "bad-row", "got object");
  EXPECT_ERROR(render("x", {"text"}), FormatError, "bad-row", "each message to be an object");
  EXPECT_ERROR(render("x", {{{"role", "user"}}}, {{"messages", 1}}), FormatError, "bad-row",
               "variables other than messages");
}

TEST(ChatTemplate, NamesPlaceOfErrors) {
  const Json messages = {{{"role", "user"}, {"content", "hi"}}};
  EXPECT_ERROR(ChatTemplate("a\n{% bad %}", "dir/chat_template.jinja", kSpecialTokens), FormatError,
               "bad-template", "dir/chat_template.jinja:2: expected a statement");
  EXPECT_ERROR(render("\n{{ raise_exception('No.') }}", messages), FormatError, "bad-row",
               "template:2: No.");
}

class ChatTemplateDirectory : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::path(::testing::TempDir()) /
                 fmt::format("chat_template_{}",
                             ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void write(const std::string& name, const std::string& text) {
    std::ofstream(directory_ / name) << text;
  }
  std::string render() const {
    const Json messages = {{{"role", "user"}, {"content", "hi"}}};
    return ChatTemplate::from_directory(directory_).render({.messages = &messages});
  }
  std::string render_with_tools() const {
    const Json messages = {{{"role", "user"}, {"content", "hi"}}}, tools = Json::array();
    return ChatTemplate::from_directory(directory_)
        .render({.messages = &messages, .tools = &tools});
  }

  std::filesystem::path directory_;
};

TEST_F(ChatTemplateDirectory, PrefersTheTemplatesOwnFile) {
  write("tokenizer_config.json", R"({"chat_template": "config", "eos_token": {"content": "<e>"}})");
  EXPECT_EQ(render(), "config");
  write("chat_template.jinja", "file {{ eos_token }}\n");
  EXPECT_EQ(render(), "file <e>");
}

TEST_F(ChatTemplateDirectory, TakesTheDefaultOfSeveral) {
  write("tokenizer_config.json",
        R"({"chat_template": [{"name": "tool_use", "template": "t"},
                              {"name": "default", "template": "d{{ bos_token }}"}],
            "bos_token": null})");
  EXPECT_EQ(render(), "d");
  EXPECT_EQ(render_with_tools(), "t");
  write("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "d"},
                                                       {"name": "rag", "template": "{% bad %}"}]})");
  EXPECT_EQ(render_with_tools(), "d");
}

TEST_F(ChatTemplateDirectory, TakesAnObjectOfTemplates) {
  write("tokenizer_config.json", R"({"chat_template": {"default": "d", "tool_use": "t"}})");
  EXPECT_EQ(render(), "d");
  EXPECT_EQ(render_with_tools(), "t");
}

TEST_F(ChatTemplateDirectory, TakesTemplatesFromFilesOfTheirOwn) {
  write("tokenizer_config.json",
        R"({"chat_template": [{"name": "default", "template": "config"},
                              {"name": "tool_use", "template": "config tools"}]})");
  write("chat_template.jinja", "file");
  // Where there is one file, the configuration's templates are not looked at, as in transformers.
  EXPECT_EQ(render_with_tools(), "file");
  std::filesystem::create_directories(directory_ / "additional_chat_templates");
  write("additional_chat_templates/tool_use.jinja", "tools {{ bos_token }}");
  write("additional_chat_templates/rag.jinja", "{% bad %}");
  EXPECT_EQ(render(), "file");
  EXPECT_EQ(render_with_tools(), "tools ");
  std::filesystem::remove(directory_ / "chat_template.jinja");
  EXPECT_EQ(render_with_tools(), "tools ");
  EXPECT_ERROR(render(), FormatError, "missing-template", "expected a template named default");
}

TEST_F(ChatTemplateDirectory, ReadsATemplateForToolsWhenToolsCome) {
  write("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "d"},
                                     {"name": "tool_use", "template": "{% bad %}"}]})");
  EXPECT_EQ(render(), "d");
  EXPECT_ERROR(render_with_tools(), FormatError, "bad-template", "expected a statement");
  write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "r"}]})");
  EXPECT_ERROR(render(), FormatError, "missing-template", "of other names");
  write("tokenizer_config.json", R"({"chat_template": [{"name": "default"}]})");
  EXPECT_ERROR(render(), FormatError, "bad-template", "expected text in name and template");
}

TEST_F(ChatTemplateDirectory, SaysWhereATemplateIsMissing) {
  EXPECT_ERROR(render(), FormatError, "missing-template", "expected chat_template.jinja");
  write("tokenizer_config.json", R"({"chat_template": null})");
  EXPECT_ERROR(render(), FormatError, "missing-template", directory_.string());
}

TEST(ChatEncoder, GoesOnWithTheLastMessage) {
  const auto open_text = [](const char* name, const Json& messages) {
    const ChatEncoder encoder(
        Tokenizer::from_json(default_tokenizer_json(2048), default_tokenizer_config(), "default"),
        ChatTemplate(read_file(kData / name), name, kSpecialTokens));
    const auto prompt = encoder.encode_prompt({.messages = &messages},
                                              {.end = PromptEnd::kContinued, .opening = "!"});
    EXPECT_EQ(encoder.tokenizer().decode(prompt.ids), prompt.text);
    return prompt;
  };
  const Json messages = parse_json(R"([{"role": "user", "content": "The answer "},
                     {"role": "assistant", "content": "The answer "}])",
                                   "test");
  // One template keeps the space behind the content, the other one trims it.
  EXPECT_EQ(open_text("qwen3.jinja", messages).text,
            "<|im_start|>user\nThe answer <|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\nThe answer !");
  const auto trimmed = open_text("qwen3_5_think.jinja", messages);
  EXPECT_TRUE(trimmed.text.ends_with("</think>\n\nThe answer!")) << trimmed.text;
  EXPECT_EQ(trimmed.response_prefix, "<think>\n\n</think>\n\nThe answer!");
  Json no_text = messages;
  no_text[1]["content"] = nullptr;
  EXPECT_ERROR(open_text("qwen3.jinja", no_text), FormatError, "bad-row", "last message");
}

}  // namespace
}  // namespace lockstep::text
