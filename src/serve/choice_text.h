// The text of one completion while its tokens come, parted as its request wants it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "rollout/completion.h"
#include "serve/openai_request.h"
#include "text/reasoning.h"
#include "text/tool_calls.h"

namespace lockstep::serve {

/// What a chat model's answers look like; of no interest to plain completions.
struct AnswerDialect {
  text::ThinkingStart thinking = text::ThinkingStart::kNever;
  text::ToolDialect tools = text::ToolDialect::kNone;
  /// What the prompt begins the answer with, so that it is a call.
  std::string opening;
};

/// What tokens add to a choice.
struct ChoiceDelta {
  std::string reasoning, content;
  std::vector<text::ToolCall> calls;
  bool is_empty() const { return reasoning.empty() && content.empty() && calls.empty(); }
};

/// Makes the text of a choice. All pieces together do not depend on how many tokens came at once.
/// The request must outlive it. Not thread-safe.
class ChoiceText {
 public:
  ChoiceText(const OpenAiRequest& request,
             const text::Tokenizer& tokenizer,
             const AnswerDialect& dialect);
  /// A token that is part of the text: a stop token that ended it is not, unless the request wants
  /// to see it.
  ChoiceDelta push(int64_t id);
  /// What is left when the choice has ended, by a stop string if it is set.
  ChoiceDelta finish(const std::optional<std::string>& stop_string);

 private:
  void add(ChoiceDelta& delta, text::PartedText&& parts);
  void add(ChoiceDelta& delta, text::AnswerPiece&& piece);

  const OpenAiRequest* request_;
  rollout::CompletionStream stream_;
  text::ReasoningSplitter reasoning_;
  text::ToolCallReader calls_;
  bool has_call_ = false;
};

}  // namespace lockstep::serve
