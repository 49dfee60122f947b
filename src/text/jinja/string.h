// Python's str methods on UTF-8 text: positions and lengths count code points.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::text::jinja {

std::u32string decode_utf8(std::string_view text);
std::string encode_utf8(std::u32string_view text);
void append_utf8(std::string& out, char32_t code_point);
int64_t count_code_points(std::string_view text);
/// Byte offset of a code point; text.size() where `index` is at or behind the end.
size_t byte_offset(std::string_view text, int64_t index);

/// str.isspace of one character.
bool is_space(char32_t code_point);

enum class Side : uint8_t { kBoth, kLeft, kRight };
/// str.strip, lstrip, rstrip; without `characters` white space goes.
std::string_view strip(std::string_view text,
                       Side side = Side::kBoth,
                       const std::optional<std::u32string>& characters = std::nullopt);

/// str.split and rsplit; no separator means runs of white space; `limit` < 0 means none.
std::vector<std::string> split(std::string_view text,
                               std::optional<std::string_view> separator,
                               int64_t limit);
std::vector<std::string> split_from_right(std::string_view text,
                                          std::optional<std::string_view> separator,
                                          int64_t limit);
std::vector<std::string> split_lines(std::string_view text, bool keep_ends);

/// str.replace; `limit` < 0 means all.
std::string replace(std::string_view text,
                    std::string_view from,
                    std::string_view to,
                    int64_t limit);
/// str.count of non-overlapping places; an empty needle counts one more than the characters.
int64_t count(std::string_view text, std::string_view needle);

/// Simple case mapping of each character; ß becomes SS in capitals.
std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string to_title(std::string_view text);
std::string capitalize(std::string_view text);
std::string swap_case(std::string_view text);
/// str.isupper and islower.
bool is_upper(std::string_view text);
bool is_lower(std::string_view text);

/// Tests of every character; false for an empty text.
bool is_alpha(std::string_view text);
bool is_digit(std::string_view text);
bool is_alnum(std::string_view text);
bool is_space_only(std::string_view text);

/// repr of a str.
std::string quote_repr(std::string_view text);
/// A JSON string with its quotes, as json.dumps writes it.
std::string quote_json(std::string_view text, bool ensure_ascii);
/// markupsafe.escape.
std::string escape_html(std::string_view text);

}  // namespace lockstep::text::jinja
