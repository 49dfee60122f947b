// lockstep tokenize: turns text and conversations into ids, and ids into text, one row for each
// row.
// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <optional>

#include "base/check.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/row_file.h"
#include "text/chat_template.h"
#include "text/row.h"
#include "text/row_files.h"
#include "text/tokenizer.h"

namespace lockstep::cli {
namespace {

struct TokenizeOptions {
  std::string model, dataset, output;
  bool overwrite = false;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("model", model, "Directory of the checkpoint: tokenizer.json, chat_template.jinja.");
    visit("dataset", dataset, "JSON lines with text, ids or messages.");
    visit("output", output, "Where the rows go; unset: stdout.");
    visit("overwrite", overwrite, "Replaces an existing output.");
  }
};

/// Turns one row at a time; loads the chat template when the first conversation comes.
class RowTokenizer {
 public:
  explicit RowTokenizer(const std::filesystem::path& model)
      : model_(model), tokenizer_(text::Tokenizer::from_directory(model)) {
    const bool has_config = std::filesystem::exists(model / "config.json");
    vocab_size_ = has_config ? read_vocab_size(model) : tokenizer_.size();
  }

  Json convert(const Json& row, const std::string& where) {
    const int num_forms =
        int{row.contains("text")} + int{row.contains("ids")} + int{row.contains("messages")};
    if (num_forms != 1)
      fail<FormatError>("bad-row", where, "expected one of text, ids and messages, got {} of them",
                        num_forms);
    return text::at_row(where, [&] {
      if (row.contains("text")) return convert_text(row["text"], where);
      if (row.contains("ids")) return convert_ids(row, where);
      return convert_messages(row, where);
    });
  }

 private:
  Json encode(const std::string& text, const std::string& where) const {
    const std::vector<int64_t> ids = tokenizer_.encode(text);
    text::check_ids(ids, vocab_size_, where);
    return ids;
  }

  Json convert_text(const Json& text, const std::string& where) const {
    if (!text.is_string())
      fail<FormatError>("bad-row", where, "expected a string in text, got {}", text.type_name());
    return Json{{"ids", encode(text.get_ref<const std::string&>(), where)}};
  }

  Json convert_ids(const Json& row, const std::string& where) const {
    std::vector<int64_t> ids = text::ids_of(row, "ids", vocab_size_, where);
    // Ids of padding, which the model has and the tokenizer does not.
    std::erase_if(ids, [this](int64_t id) { return id >= tokenizer_.size(); });
    return Json{{"text", tokenizer_.decode(ids)}};
  }

  /// Renders messages as transformers' apply_chat_template does.
  Json convert_messages(const Json& row, const std::string& where) {
    if (!template_) template_.emplace(text::ChatTemplate::from_directory(model_));
    const text::Row parts =
        text::take_conversation(Json(row), where, text::MessageForm::kAsTheyStand);
    const Json prompt = parts.columns.value("add_generation_prompt", Json());
    if (!prompt.is_null() && !prompt.is_boolean())
      fail<FormatError>("bad-row", where, "expected true or false in add_generation_prompt, got {}",
                        prompt.type_name());
    const std::string rendered =
        template_->render({.messages = &parts.messages,
                           .tools = parts.tools.is_null() ? nullptr : &parts.tools,
                           .add_generation_prompt = prompt == true,
                           .variables = &parts.chat_template_kwargs});
    Json result{{"text", rendered}};
    result["ids"] = encode(rendered, where);
    return result;
  }

  std::filesystem::path model_;
  text::Tokenizer tokenizer_;
  std::optional<text::ChatTemplate> template_;
  int64_t vocab_size_ = 0;
};

}  // namespace

void run_tokenize(CommandContext& context, std::span<const std::string> arguments) {
  TokenizeOptions options;
  FlagSet flags("tokenize",
                "Turns text and conversations into ids, and ids into text, row by row.");
  flags.add_group("tokenize", options);
  flags.require("model");
  flags.require("dataset");
  if (!begin_command(context, flags, arguments)) return;

  context.reads("--model", options.model);
  context.reads("--dataset", options.dataset);
  RowWriter writer(options.output, options.overwrite, "--output", context.inputs);
  RowTokenizer tokenizer(options.model);
  text::for_each_row(options.dataset, [&](const std::string& where, Json&& row) {
    writer.write(tokenizer.convert(row, where));
  });
  context.phase.start();
  writer.commit();
}

}  // namespace lockstep::cli
