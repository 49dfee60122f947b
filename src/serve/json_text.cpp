// SPDX-License-Identifier: Apache-2.0
#include "serve/json_text.h"

#include <charconv>
#include <cmath>

namespace lockstep::serve {
void append_json_text(std::string& out, std::string_view text) {
  static constexpr char kDigits[] = "0123456789abcdef";
  out += '"';
  size_t done = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte >= 0x20 && byte != '"' && byte != '\\') continue;
    out.append(text, done, i - done);
    done = i + 1;
    out += '\\';
    if (byte == '"' || byte == '\\') {
      out += text[i];
    } else if (byte == '\n') {
      out += 'n';
    } else if (byte == '\t') {
      out += 't';
    } else if (byte == '\r') {
      out += 'r';
    } else {
      out += "u00";
      out += kDigits[byte >> 4];
      out += kDigits[byte & 15];
    }
  }
  out.append(text, done, text.size() - done);
  out += '"';
}

std::string json_text(std::string_view text) {
  std::string out;
  append_json_text(out, text);
  return out;
}

void append_json_float(std::string& out, float value) {
  constexpr float kNone = -9999.0F;
  if (!std::isfinite(value) || value < kNone) value = kNone;
  char digits[32];
  const auto written = std::to_chars(digits, digits + sizeof(digits), value);
  const std::string_view text(digits, static_cast<size_t>(written.ptr - digits));
  out += text;
  // Readers of JSON should see a float.
  if (text.find_first_of(".e") == text.npos) out += ".0";
}

void append_json_integer(std::string& out, int64_t value) {
  char digits[24];
  const auto written = std::to_chars(digits, digits + sizeof(digits), value);
  out.append(digits, written.ptr);
}

void append_json_ids(std::string& out, std::span<const int64_t> ids) {
  out += '[';
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) out += ',';
    append_json_integer(out, ids[i]);
  }
  out += ']';
}

}  // namespace lockstep::serve
