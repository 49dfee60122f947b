// Strict JSON behind one small wrapper of nlohmann-json.
// SPDX-License-Identifier: Apache-2.0
//
// Json keeps the order of keys. Headers that only mention it include base/json_fwd.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/json_fwd.h"

namespace lockstep {

struct JsonLimits {
  int max_depth = 256;
  size_t max_bytes = size_t{1} << 30;
  /// A number that a double rounds or cannot hold, such as one of thirty digits or 1e400, keeps the
  /// digits that it is written with. It is no is_number() then: see number_text.
  bool keep_digits = false;
};

/// Parses one JSON text.
///
/// Throws FormatError `code` at `where` (with byte offset) for: a syntax error, text behind the
/// value, a duplicate key, NaN, an infinity, a number outside double (unless digits are kept),
/// invalid UTF-8, a depth or size over the limit.
Json parse_json(std::string_view text,
                std::string_view where,
                std::string_view code = "bad-json",
                const JsonLimits& limits = {});
/// The digits of a number, kept ones too; unset for a value that is not a number.
std::optional<std::string> number_text(const Json& value);
/// Makes doubles of all numbers with kept digits. Throws FormatError where one is too large.
void round_kept_digits(Json& value);

/// parse_json of a whole file; `where` is its path. Throws IoError too.
Json parse_json_file(const std::filesystem::path& path, std::string_view code = "bad-json");

/// One line, no spaces after separators unless `spaced` (", " and ": ", as Python's json.dumps);
/// non-ASCII kept. Kept digits are written as they stood.
std::string dump_json(const Json& value, bool spaced = false);
/// Indented by `indent` spaces a level, with a trailing newline: for files that people read.
std::string dump_json_pretty(const Json& value, int indent = 2);

/// The shortest decimal that reads back to this float, as a double (so that files hold 0.1, not
/// 0.10000000149011612).
double shortest_double(float value);

}  // namespace lockstep
