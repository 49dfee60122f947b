// Python's str methods on UTF-8 text, with utf8proc's tables.
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja/string.h"

#include <algorithm>

#include <fmt/format.h>
#include <utf8proc.h>

namespace lockstep::text::jinja {
namespace {

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

/// Reads one code point at `at` and moves behind it. The text is valid UTF-8: parse_json and the
/// lexer let nothing else in.
char32_t next_code_point(std::string_view text, size_t& at) {
  const auto lead = static_cast<unsigned char>(text[at++]);
  if (lead < 0x80) return lead;
  const int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
  char32_t result = lead & (0x3F >> more);
  for (int i = 0; i < more && at < text.size(); ++i)
    result = (result << 6) | (static_cast<unsigned char>(text[at++]) & 0x3F);
  return result;
}

/// Where the last code point before `at` begins.
size_t previous_start(std::string_view text, size_t at) {
  do {
    --at;
  } while (at > 0 && is_continuation(text[at]));
  return at;
}

bool is_line_end(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}
bool is_letter(char32_t c) {
  const auto kind = category(c);
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}
bool is_capital(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LU || category(c) == UTF8PROC_CATEGORY_LT;
}
bool is_small(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LL; }

void append_upper(std::string& out, char32_t c) {
  // utf8proc gives the capital ẞ; Python follows Unicode's special casing.
  if (c == 0xDF) {
    out += "SS";
  } else {
    append_utf8(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
  }
}
void append_lower(std::string& out, char32_t c) {
  // The one letter whose small form is two characters.
  if (c == 0x130)
    out += "i\u0307";
  else
    append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
}
void append_title(std::string& out, char32_t c) {
  if (c == 0xDF) {
    out += "Ss";
  } else {
    append_utf8(out, static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
  }
}

template <class Visitor>
void for_each_code_point(std::string_view text, Visitor&& visit) {
  for (size_t at = 0; at < text.size();) visit(next_code_point(text, at));
}

template <class Test>
bool all_code_points(std::string_view text, Test&& test) {
  for (size_t at = 0; at < text.size();) {
    if (!test(next_code_point(text, at))) return false;
  }
  return !text.empty();
}

std::vector<std::string> split_on_space(std::string_view text, int64_t limit) {
  std::vector<std::string> parts;
  std::string_view rest = strip(text, Side::kLeft);
  while (!rest.empty()) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.emplace_back(rest);
      break;
    }
    size_t end = 0, behind = 0;
    while (end < rest.size()) {
      behind = end;
      if (is_space(next_code_point(rest, behind))) break;
      end = behind;
    }
    parts.emplace_back(rest.substr(0, end));
    rest = strip(rest.substr(end), Side::kLeft);
  }
  return parts;
}

std::vector<std::string> split_on_space_from_right(std::string_view text, int64_t limit) {
  std::vector<std::string> parts;
  std::string_view rest = strip(text, Side::kRight);
  while (!rest.empty()) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.emplace_back(rest);
      break;
    }
    size_t begin = rest.size();
    while (begin > 0) {
      size_t before = previous_start(rest, begin);
      size_t behind = before;
      if (is_space(next_code_point(rest, behind))) break;
      begin = before;
    }
    parts.emplace_back(rest.substr(begin));
    rest = strip(rest.substr(0, begin), Side::kRight);
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

}  // namespace

std::u32string decode_utf8(std::string_view text) {
  std::u32string result;
  result.reserve(text.size());
  for_each_code_point(text, [&](char32_t c) { result += c; });
  return result;
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
    return;
  }
  const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  constexpr unsigned char kLead[] = {0, 0xC0, 0xE0, 0xF0};
  out += static_cast<char>(kLead[more] | (c >> (6 * more)));
  for (int i = more - 1; i >= 0; --i) out += static_cast<char>(0x80 | ((c >> (6 * i)) & 0x3F));
}

std::string encode_utf8(std::u32string_view text) {
  std::string result;
  for (const char32_t c : text) append_utf8(result, c);
  return result;
}

int64_t count_code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return !is_continuation(c); });
}

size_t byte_offset(std::string_view text, int64_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) next_code_point(text, at);
  return at;
}

bool is_space(char32_t c) {
  return c == 0x20 || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F) || c == 0x85 ||
         c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

std::string_view strip(std::string_view text,
                       Side side,
                       const std::optional<std::u32string>& characters) {
  const auto goes = [&](char32_t c) {
    return characters ? characters->find(c) != std::u32string::npos : is_space(c);
  };
  while (side != Side::kRight && !text.empty()) {
    size_t behind = 0;
    if (!goes(next_code_point(text, behind))) break;
    text.remove_prefix(behind);
  }
  while (side != Side::kLeft && !text.empty()) {
    const size_t start = previous_start(text, text.size());
    size_t behind = start;
    if (!goes(next_code_point(text, behind))) break;
    text = text.substr(0, start);
  }
  return text;
}

std::vector<std::string> split(std::string_view text,
                               std::optional<std::string_view> separator,
                               int64_t limit) {
  if (!separator) return split_on_space(text, limit);
  std::vector<std::string> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = text.find(*separator);
    if (at == text.npos) break;
    parts.emplace_back(text.substr(0, at));
    text.remove_prefix(at + separator->size());
  }
  parts.emplace_back(text);
  return parts;
}

std::vector<std::string> split_from_right(std::string_view text,
                                          std::optional<std::string_view> separator,
                                          int64_t limit) {
  if (!separator) return split_on_space_from_right(text, limit);
  std::vector<std::string> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = text.rfind(*separator);
    if (at == text.npos) break;
    parts.emplace_back(text.substr(at + separator->size()));
    text = text.substr(0, at);
  }
  parts.emplace_back(text);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const char32_t c = next_code_point(text, at);
    if (!is_line_end(c)) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.emplace_back(text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) lines.emplace_back(text.substr(begin));
  return lines;
}

std::string replace(std::string_view text,
                    std::string_view from,
                    std::string_view to,
                    int64_t limit) {
  std::string out;
  size_t at = 0;
  if (from.empty()) {
    // Python puts `to` before each character and at the end.
    int64_t done = 0;
    for (; limit < 0 || done < limit; ++done) {
      out += to;
      if (at == text.size()) return out;
      const size_t begin = at;
      next_code_point(text, at);
      out += text.substr(begin, at - begin);
    }
    return out += text.substr(at);
  }
  for (int64_t done = 0; limit < 0 || done < limit; ++done) {
    const size_t found = text.find(from, at);
    if (found == text.npos) break;
    out += text.substr(at, found - at);
    out += to;
    at = found + from.size();
  }
  return out += text.substr(at);
}

int64_t count(std::string_view text, std::string_view needle) {
  if (needle.empty()) return count_code_points(text) + 1;
  int64_t result = 0;
  for (size_t at = text.find(needle); at != text.npos; at = text.find(needle, at + needle.size()))
    ++result;
  return result;
}

std::string to_upper(std::string_view text) {
  std::string out;
  for_each_code_point(text, [&](char32_t c) { append_upper(out, c); });
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  for_each_code_point(text, [&](char32_t c) { append_lower(out, c); });
  return out;
}

std::string to_title(std::string_view text) {
  std::string out;
  bool inside_word = false;
  for_each_code_point(text, [&](char32_t c) {
    inside_word ? append_lower(out, c) : append_title(out, c);
    inside_word = is_capital(c) || is_small(c);
  });
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  if (text.empty()) return out;
  size_t behind = 0;
  append_title(out, next_code_point(text, behind));
  return out += to_lower(text.substr(behind));
}

std::string swap_case(std::string_view text) {
  std::string out;
  for_each_code_point(
      text, [&](char32_t c) { is_capital(c) ? append_lower(out, c) : append_upper(out, c); });
  return out;
}

bool is_upper(std::string_view text) {
  bool seen = false, good = true;
  for_each_code_point(text, [&](char32_t c) {
    seen = seen || category(c) == UTF8PROC_CATEGORY_LU;
    good = good && !is_small(c) && category(c) != UTF8PROC_CATEGORY_LT;
  });
  return seen && good;
}

bool is_lower(std::string_view text) {
  bool seen = false, good = true;
  for_each_code_point(text, [&](char32_t c) {
    seen = seen || is_small(c);
    good = good && !is_capital(c);
  });
  return seen && good;
}

bool is_alpha(std::string_view text) { return all_code_points(text, is_letter); }
bool is_digit(std::string_view text) {
  return all_code_points(text, [](char32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; });
}
bool is_alnum(std::string_view text) {
  return all_code_points(text, [](char32_t c) {
    const auto kind = category(c);
    return is_letter(c) || (kind >= UTF8PROC_CATEGORY_ND && kind <= UTF8PROC_CATEGORY_NO);
  });
}
bool is_space_only(std::string_view text) { return all_code_points(text, is_space); }

std::string quote_repr(std::string_view text) {
  const bool has_single = text.find('\'') != text.npos;
  const char quote = has_single && text.find('"') == text.npos ? '"' : '\'';
  std::string out(1, quote);
  for_each_code_point(text, [&](char32_t c) {
    const auto kind = category(c);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c != ' ' && (kind == UTF8PROC_CATEGORY_CN || kind >= UTF8PROC_CATEGORY_ZS)) {
      // Not printable: separators and everything in the categories C.
      out += c < 0x100     ? fmt::format("\\x{:02x}", static_cast<uint32_t>(c))
             : c < 0x10000 ? fmt::format("\\u{:04x}", static_cast<uint32_t>(c))
                           : fmt::format("\\U{:08x}", static_cast<uint32_t>(c));
    } else {
      append_utf8(out, c);
    }
  });
  return out += quote;
}

std::string quote_json(std::string_view text, bool ensure_ascii) {
  std::string out = "\"";
  for_each_code_point(text, [&](char32_t c) {
    switch (c) {
      case '"':
        out += "\\\"";
        return;
      case '\\':
        out += "\\\\";
        return;
      case '\n':
        out += "\\n";
        return;
      case '\r':
        out += "\\r";
        return;
      case '\t':
        out += "\\t";
        return;
      case '\f':
        out += "\\f";
        return;
      case '\b':
        out += "\\b";
        return;
      default:
        break;
    }
    const auto code = static_cast<uint32_t>(c);
    if (code < 0x20 || (ensure_ascii && code > 0x7E && code < 0x10000)) {
      out += fmt::format("\\u{:04x}", code);
    } else if (ensure_ascii && code >= 0x10000) {
      const uint32_t above = code - 0x10000;
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (above >> 10), 0xDC00 + (above & 0x3FF));
    } else {
      append_utf8(out, c);
    }
  });
  return out += '"';
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace lockstep::text::jinja
