// SPDX-License-Identifier: Apache-2.0
#include "text/reasoning.h"

#include <utility>

#include "base/check.h"
#include "base/json.h"
#include "text/text_marker.h"

namespace lockstep::text {
namespace {

constexpr std::string_view kOpenThink = "<think>", kCloseThink = "</think>";
constexpr std::string_view kNewlines = "\r\n", kSpaces = " \t\r\n";

}  // namespace

bool writes_thoughts(const ChatEncoder& chat) {
  static const Json kMessages = parse_json(
      R"([{"role": "user", "content": "q"},
          {"role": "assistant", "content": "a", "reasoning_content": "r"}])",
      "probe");
  static const Json kQuestion(Json::array_t{kMessages[0]});
  const auto has_marker = [&](const Json& messages, PromptEnd end) {
    try {
      const auto prompt = chat.encode_prompt({.messages = &messages}, {.end = end});
      return prompt.text.find(kOpenThink) != prompt.text.npos;
    } catch (const FormatError& error) {
      if (error.code() != "bad-row") throw;
      return false;
    }
  };
  return has_marker(kMessages, PromptEnd::kNone) ||
         has_marker(kQuestion, PromptEnd::kGenerationPrompt);
}

ThinkingStart thinking_start(bool has_thoughts, std::string_view prefix) {
  if (!has_thoughts) return ThinkingStart::kNever;
  const size_t open = prefix.rfind(kOpenThink), close = prefix.rfind(kCloseThink);
  const bool is_open = open != prefix.npos && (close == prefix.npos || close < open);
  return is_open ? ThinkingStart::kOpen : ThinkingStart::kIfWritten;
}

ReasoningSplitter::ReasoningSplitter(ThinkingStart start)
    : start_(start), state_(start == ThinkingStart::kNever ? State::kContent : State::kBegin) {}

PartedText ReasoningSplitter::push(std::string_view text) {
  PartedText out;
  if (state_ == State::kContent) {
    out.content = text;
    return out;
  }
  waiting_ += text;
  while (!waiting_.empty() && step(out)) {
  }
  return out;
}

/// Takes what can be told from the text that waits; false if more must come first.
bool ReasoningSplitter::step(PartedText& out) {
  switch (state_) {
    case State::kBegin:
      return begin();
    case State::kThinkingBegins:
    case State::kBehindThinking:
      waiting_.erase(0, std::min(waiting_.find_first_not_of(kNewlines), waiting_.size()));
      if (waiting_.empty()) return false;
      state_ = state_ == State::kThinkingBegins ? State::kThinking : State::kContent;
      return true;
    case State::kThinking:
      return think(out);
    case State::kContent:
      out.content += std::exchange(waiting_, {});
      return false;
  }
  return false;
}

/// The first text: <think>, perhaps behind spaces, or something else. A prompt that has opened it
/// may be followed by one more.
bool ReasoningSplitter::begin() {
  const size_t at = std::min(waiting_.find_first_not_of(kSpaces), waiting_.size());
  const std::string_view text = std::string_view(waiting_).substr(at);
  if (text.size() < kOpenThink.size() && kOpenThink.starts_with(text)) return false;
  if (text.starts_with(kOpenThink)) {
    waiting_.erase(0, at + kOpenThink.size());
    state_ = State::kThinkingBegins;
  } else {
    state_ = start_ == ThinkingStart::kOpen ? State::kThinkingBegins : State::kContent;
  }
  return true;
}

bool ReasoningSplitter::think(PartedText& out) {
  const size_t close = waiting_.find(kCloseThink);
  if (close != waiting_.npos) {
    const size_t end = trailing_run(std::string_view(waiting_).substr(0, close), kNewlines);
    out.reasoning += waiting_.substr(0, end);
    waiting_.erase(0, close + kCloseThink.size());
    state_ = State::kBehindThinking;
    return true;
  }
  const size_t begun = waiting_.size() - marker_begun(waiting_, kCloseThink);
  const size_t safe = trailing_run(std::string_view(waiting_).substr(0, begun), kNewlines);
  out.reasoning += waiting_.substr(0, safe);
  waiting_.erase(0, safe);
  return false;
}

PartedText ReasoningSplitter::finish() {
  PartedText out;
  std::string rest = std::exchange(waiting_, {});
  if (state_ == State::kContent || (state_ == State::kBegin && start_ != ThinkingStart::kOpen)) {
    out.content = std::move(rest);
  } else if (state_ != State::kBehindThinking) {
    rest.resize(trailing_run(rest, kNewlines));
    // What may have been a second <think> is the begin of a thought.
    const size_t newlines = rest.find_first_not_of(kNewlines);
    if (state_ == State::kBegin && newlines != rest.npos) rest.erase(0, newlines);
    out.reasoning = std::move(rest);
  }
  return out;
}

}  // namespace lockstep::text
