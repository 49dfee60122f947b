// SPDX-License-Identifier: Apache-2.0
#include "serve/choice_text.h"

#include <utility>

namespace lockstep::serve {
namespace {

rollout::TextForm form_of(const OpenAiRequest& request) {
  return {.stop_string =
              request.include_stop_string ? rollout::StopString::kLast : rollout::StopString::kCut,
          .skip_special = request.skip_special_tokens};
}

/// Calls are looked for where the request lets the model call.
text::ToolDialect dialect_of(const OpenAiRequest& request, const AnswerDialect& dialect) {
  return request.tool_choice == ToolChoice::kNone ? text::ToolDialect::kNone : dialect.tools;
}

}  // namespace

ChoiceText::ChoiceText(const OpenAiRequest& request,
                       const text::Tokenizer& tokenizer,
                       const AnswerDialect& dialect)
    : request_(&request),
      stream_(tokenizer, request.settings.stop_strings, form_of(request)),
      reasoning_(dialect.opening.empty() ? dialect.thinking : text::ThinkingStart::kNever),
      calls_(dialect_of(request, dialect), request.chat.tools) {
  // An opening is the begin of a call, which is not complete: nothing of it is content yet.
  calls_.push(dialect.opening);
}

ChoiceDelta ChoiceText::push(int64_t id) {
  ChoiceDelta delta;
  add(delta, reasoning_.push(stream_.push(id)));
  return delta;
}

ChoiceDelta ChoiceText::finish(const std::optional<std::string>& stop_string) {
  ChoiceDelta delta;
  add(delta, reasoning_.push(stream_.finish(stop_string)));
  add(delta, reasoning_.finish());
  add(delta, calls_.finish());
  return delta;
}

void ChoiceText::add(ChoiceDelta& delta, text::PartedText&& parts) {
  if (request_->include_reasoning) delta.reasoning += parts.reasoning;
  add(delta, calls_.push(parts.content));
}

void ChoiceText::add(ChoiceDelta& delta, text::AnswerPiece&& piece) {
  delta.content += piece.content;
  for (text::ToolCall& call : piece.calls) {
    // Of several calls at once one is wanted: the first.
    if (has_call_ && !request_->parallel_tool_calls) continue;
    has_call_ = true;
    delta.calls.push_back(std::move(call));
  }
}

}  // namespace lockstep::serve
