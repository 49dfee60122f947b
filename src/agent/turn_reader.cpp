// SPDX-License-Identifier: Apache-2.0
#include "agent/turn_reader.h"

#include <algorithm>
#include <iterator>

#include "agent/tool_schemas.h"  // covered
#include "text/reasoning.h"

namespace lockstep::agent {

TurnReader::TurnReader(const text::ChatEncoder& encoder)
    : encoder_(&encoder),
      dialect_(text::tool_dialect(encoder)),
      has_thoughts_(text::writes_thoughts(encoder)) {}

/// Whether the prompt has opened <think>, so that the turn begins inside of it.
bool TurnReader::opens_thoughts(const Trajectory& trajectory) const {
  static const Json kQuestion = Json::array({{{"role", "user"}, {"content", "q"}}});
  const Json* variables = trajectory.row && trajectory.row->chat_template_kwargs.is_object()
                              ? &trajectory.row->chat_template_kwargs
                              : nullptr;
  const auto prompt = encoder_->encode_prompt({.messages = &kQuestion, .variables = variables});
  return text::thinking_start(has_thoughts_, prompt.response_prefix) == text::ThinkingStart::kOpen;
}

ReadTurn TurnReader::read(const Trajectory& trajectory, std::string_view text) const {
  ReadTurn turn{.content = std::string(text), .calls = {}};
  if (text.find("<tool_call>") == text.npos) return turn;
  const auto start = !has_thoughts_               ? text::ThinkingStart::kNever
                     : opens_thoughts(trajectory) ? text::ThinkingStart::kOpen
                                                  : text::ThinkingStart::kIfWritten;
  text::ReasoningSplitter splitter(start);
  std::string said = splitter.push(text).content;
  said += splitter.finish().content;
  const Json tools = covered(trajectory.tools);
  text::ToolCallReader reader(dialect_, tools);
  text::AnswerPiece piece = reader.push(said);
  text::AnswerPiece rest = reader.finish();
  std::move(rest.calls.begin(), rest.calls.end(), std::back_inserter(piece.calls));
  if (piece.calls.empty()) return turn;
  // What the model thought stands before what it said.
  turn.content.resize(text.size() - said.size());
  turn.content += piece.content + rest.content;
  turn.calls = std::move(piece.calls);
  return turn;
}

}  // namespace lockstep::agent
