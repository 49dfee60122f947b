// Reads the turns of a model: what it thinks, what it says, what it calls.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "agent/turn_scheduler.h"
#include "text/chat_encoder.h"
#include "text/tool_calls.h"

namespace lockstep::agent {

/// A turn without its calls, thoughts included, and the calls behind its thoughts.
struct ReadTurn {
  std::string content;
  std::vector<text::ToolCall> calls;
};

/// Threads: safe.
class TurnReader {
 public:
  /// `encoder` must outlive it.
  explicit TurnReader(const text::ChatEncoder& encoder);

  /// kNone: calls cannot be read.
  text::ToolDialect dialect() const { return dialect_; }
  /// Reads a turn of the trajectory, or what was sampled of it last. Calls in a thought are none.
  ReadTurn read(const Trajectory& trajectory, std::string_view text) const;

 private:
  bool opens_thoughts(const Trajectory& trajectory) const;

  const text::ChatEncoder* encoder_;
  text::ToolDialect dialect_;
  bool has_thoughts_;
};

}  // namespace lockstep::agent
