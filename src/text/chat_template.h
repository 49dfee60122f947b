// A checkpoint's chat template, run by our Jinja interpreter.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

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
  /// chat_template.jinja of a checkpoint directory, else `chat_template` in tokenizer_config.json
  /// (a string, or a list with a "default" entry). Throws FormatError "missing-template".
  static ChatTemplate from_directory(const std::filesystem::path& directory);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  std::string render(const ChatInputs& inputs) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::text
