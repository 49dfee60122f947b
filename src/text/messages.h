// Turns messages in all forms in which data come into those of OpenAI.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/json.h"

namespace lockstep::text {

/// Messages with roles system, user, assistant and tool, and text as content.
///
/// Understands from/value (sharegpt), human, gpt, bot, function_call, observation and the like,
/// ms-swift's pairs ({"human", "assistant"}), content as a list of text, tool_use and tool_result
/// parts, JSON as what a tool returned, and a list written as a JSON string. Other members of a
/// message stay as they are; a message that is a tool call keeps its training keys
/// (text/assistant_turns.h). Throws FormatError "bad-row" at `where`.
Json canonical_messages(Json messages, const std::string& where);

/// The value of a JSON text in a string; anything else as it is. Throws FormatError "bad-row" at
/// `where`.
Json parsed_if_text(Json value, const std::string& where);

}  // namespace lockstep::text
