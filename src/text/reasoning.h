// Parts what a model thinks from what it says: the text before </think>.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "text/chat_encoder.h"  // ChatEncoder

namespace lockstep::text {

/// Where the answer of a model begins.
enum class ThinkingStart : uint8_t {
  /// The model's template knows no thinking: all text is content.
  kNever,
  /// The text is thinking if it begins with <think>.
  kIfWritten,
  /// The prompt has opened <think>.
  kOpen,
};

/// Whether the template of a model writes thoughts, which is tried with a small conversation.
bool writes_thoughts(const ChatEncoder& chat);

/// Where an answer begins behind a prompt whose last turn of the assistant has `prefix` already.
ThinkingStart thinking_start(bool has_thoughts, std::string_view prefix);

/// A piece of an answer, parted.
struct PartedText {
  std::string reasoning, content;
};

/// Parts an answer that comes piece by piece. Text that may belong to a marker waits, so that the
/// pieces put together do not depend on where the text was cut.
///
/// Newlines directly inside of the markers and behind </think> are dropped: templates write them,
/// and write them anew. Thinking that has no end is all reasoning. Not thread-safe.
class ReasoningSplitter {
 public:
  explicit ReasoningSplitter(ThinkingStart start);
  PartedText push(std::string_view text);
  /// What waits, when the answer has ended.
  PartedText finish();

 private:
  enum class State : uint8_t { kBegin, kThinkingBegins, kThinking, kBehindThinking, kContent };

  bool step(PartedText& out);
  bool begin();
  bool think(PartedText& out);

  ThinkingStart start_;
  State state_;
  /// Text that has come and is in no part yet.
  std::string waiting_;
};

}  // namespace lockstep::text
