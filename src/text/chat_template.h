// A checkpoint's chat templates, run by our Jinja interpreter.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"

namespace lockstep::text {

/// What a template is rendered with.
struct ChatInputs {
  /// Array of {"role", "content", …}.
  const Json* messages = nullptr;
  /// Array, or null for none.
  const Json* tools = nullptr;
  bool add_generation_prompt = false;
  /// Object of further variables (enable_thinking, chat_template_kwargs), or null.
  const Json* variables = nullptr;
};

/// Bytes [begin, end) of a rendered conversation, written for messages[message], or -1 for none.
struct ChatPart {
  size_t begin = 0, end = 0;
  int64_t message = -1;
};

/// A rendered conversation, and which message each part of it was written for.
struct RenderedChat {
  std::string text;
  /// What the template wrote while its loop stood at a message, in order; parts do not overlap. A
  /// template without such a loop has none.
  std::vector<ChatPart> turns;
  /// What it wrote inside of {% generation %} blocks, in order.
  std::vector<ChatPart> generations;
  /// Whether the template has {% generation %} blocks, reached or not.
  bool marks_generations = false;
};

/// Equal to transformers' apply_chat_template(tokenize=False) for the Jinja that chat templates
/// use: trim_blocks and lstrip_blocks on, tojson with Python's separators, raise_exception,
/// strftime_now, namespace, macros, loop variables, slices, tests, string methods.
///
/// Throws FormatError "bad-template" with line and construct for what it does not know; FormatError
/// "bad-row" with the template's own words when the template calls raise_exception. Threads: safe
/// after construction.
class ChatTemplate {
 public:
  /// `where` names the source in errors. `special_tokens`: object of bos_token, eos_token, … seen
  /// by the template.
  ChatTemplate(std::string_view source, std::string_view where, const Json& special_tokens);
  /// The templates of a checkpoint directory: chat_template.jinja and
  /// additional_chat_templates/NAME.jinja, or, where it has none of these, `chat_template` in
  /// tokenizer_config.json: one text, a list of {"name", "template"}, or an object of these.
  ///
  /// With tools the one named "tool_use" is rendered, else "default" (chat_template.jinja).
  /// Throws FormatError "missing-template".
  /// Source: transformers 5.23, tokenization_utils_base.py (_from_pretrained, get_chat_template).
  static ChatTemplate from_directory(const std::filesystem::path& directory);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  std::string render(const ChatInputs& inputs) const { return render_parts(inputs).text; }
  RenderedChat render_parts(const ChatInputs& inputs) const;

 private:
  ChatTemplate();

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::text
