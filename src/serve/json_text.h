// Writes JSON as text, for answers that grow token by token: no tree is built for a token.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace lockstep::serve {

/// Appends a text of valid UTF-8 in quotation marks.
void append_json_text(std::string& out, std::string_view text);
std::string json_text(std::string_view text);

/// Appends the shortest decimal that reads back to this float. What JSON has no number for is
/// written as -9999.0, as vLLM does for log-probabilities of minus infinity.
void append_json_float(std::string& out, float value);

void append_json_integer(std::string& out, int64_t value);
void append_json_ids(std::string& out, std::span<const int64_t> ids);

}  // namespace lockstep::serve
