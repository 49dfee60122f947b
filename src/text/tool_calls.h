// The calls of tools in a model's answer, in the dialect that its chat template teaches it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/chat_encoder.h"  // ChatEncoder

namespace lockstep::text {

/// What stands between <tool_call> and </tool_call>.
enum class ToolDialect : uint8_t {
  /// The template writes no calls that we can read.
  kNone,
  /// {"name": …, "arguments": {…}}, as Qwen3 has it.
  kJson,
  /// <function=NAME> with a <parameter=NAME> for each argument, as Qwen3.5 has it.
  kXml,
};

/// The dialect in which a template writes a call, which is tried with a small conversation.
ToolDialect tool_dialect(const ChatEncoder& chat);

struct ToolCall {
  std::string name;
  /// An object as JSON text. Its numbers have the values that the model wrote, however long.
  std::string arguments;
};

/// The call that stands between the markers, or nothing if it is malformed. `tools` is the list of
/// a request: the types in its schemas say what the text of an argument in kXml means.
std::optional<ToolCall> parse_tool_call(std::string_view body,
                                        ToolDialect dialect,
                                        const Json& tools);

/// The text that an answer is made to begin with so that it calls a tool; `name` empty: any.
std::string tool_call_opening(ToolDialect dialect, std::string_view name);

/// A piece of an answer: text, and calls that have been completed.
struct AnswerPiece {
  std::string content;
  std::vector<ToolCall> calls;
};

/// Takes the calls out of an answer that comes piece by piece. A call is told when it is complete.
/// White space around calls is dropped; a malformed call, or one that is cut off, stays in the
/// content as it was written. The pieces put together do not depend on where the text was cut. Not
/// thread-safe.
class ToolCallReader {
 public:
  /// `tools` must outlive it. With kNone all text is content.
  ToolCallReader(ToolDialect dialect, const Json& tools);
  AnswerPiece push(std::string_view text);
  /// What waits, when the answer has ended.
  AnswerPiece finish();

 private:
  bool read_content(AnswerPiece& out);
  bool read_call(AnswerPiece& out);

  ToolDialect dialect_;
  const Json* tools_;
  bool is_in_call_ = false, is_behind_call_ = false;
  /// Text that has come and is in no part yet; in a call, what stood before it, marker included.
  std::string waiting_, before_;
  /// Where the end of a call is looked for next.
  size_t searched_ = 0;
};

}  // namespace lockstep::text
