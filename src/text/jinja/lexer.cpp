// The states of Jinja's lexer (data, comment, raw, tag) without regular expressions.
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja/lexer.h"

#include <algorithm>
#include <array>

#include "text/jinja/error.h"
#include "text/jinja/string.h"

namespace lockstep::text::jinja {
namespace {

bool is_ascii_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_name_part(char c) { return is_name_start(c) || is_ascii_digit(c); }
bool is_ascii_space(char c) { return is_space(static_cast<unsigned char>(c)) && c >= 0; }

std::string normalize_lines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
      continue;
    }
    out += '\n';
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize_lines(source)), text_(source_) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) read_data();
    push(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail_here(std::string message) const {
    throw JinjaError{"bad-template", std::move(message), line_};
  }
  bool starts(std::string_view prefix) const { return text_.substr(at_).starts_with(prefix); }
  void push(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  /// Moves to `end`, counting lines.
  void move_to(size_t end) {
    line_ += static_cast<int>(std::count(text_.begin() + at_, text_.begin() + end, '\n'));
    starts_line_ = end > at_ && text_[end - 1] == '\n';
    at_ = end;
  }

  void skip_space() {
    const std::string_view rest = text_.substr(at_);
    move_to(at_ + (rest.size() - strip(rest, Side::kLeft).size()));
  }

  /// Where the next tag opens; the end of the text if none does.
  size_t next_tag() const {
    for (size_t i = text_.find('{', at_); i != text_.npos; i = text_.find('{', i + 1)) {
      if (i + 1 < text_.size() && std::string_view("{%#").find(text_[i + 1]) != text_.npos)
        return i;
    }
    return text_.size();
  }

  /// Pushes the data before a tag, stripped as its sign asks.
  void push_data(std::string_view data, char sign, bool is_variable) {
    if (sign == '-') {
      data = strip(data, Side::kRight);
    } else if (sign != '+' && !is_variable) {
      // Without a line end this is 0, since npos + 1 is 0.
      const size_t line_start = data.rfind('\n') + 1;
      const bool may_strip = line_start > 0 || starts_line_;
      if (may_strip && strip(data.substr(line_start)).empty()) data = data.substr(0, line_start);
    }
    if (!data.empty()) push(TokenKind::kData, std::string(data));
  }

  static char sign_at(std::string_view text, size_t at) {
    return at < text.size() && (text[at] == '-' || text[at] == '+') ? text[at] : '\0';
  }

  void read_data() {
    const size_t tag = next_tag();
    const std::string_view data = text_.substr(at_, tag - at_);
    if (tag == text_.size()) {
      push(TokenKind::kData, std::string(data));
      move_to(tag);
      return;
    }
    const char sign = sign_at(text_, tag + 2);
    const char kind = text_[tag + 1];
    push_data(data, sign, kind == '{');
    move_to(tag + 2 + (sign != '\0' ? 1 : 0));
    if (kind == '#') {
      skip_comment();
    } else if (kind == '%' && begins_raw()) {
      read_raw();
    } else {
      push(kind == '{' ? TokenKind::kVariableBegin : TokenKind::kBlockBegin, "");
      read_tag(kind == '{');
    }
  }

  void skip_comment() {
    const size_t end = text_.find("#}", at_);
    if (end == text_.npos) fail_here("expected the end of a comment, \"#}\", got the end");
    const char sign = end > at_ ? sign_at(text_, end - 1) : '\0';
    move_to(end + 2);
    after_end(sign);
  }

  /// What the end of a block or comment takes with it.
  void after_end(char sign) {
    if (sign == '-') {
      skip_space();
    } else if (sign != '+' && starts("\n")) {
      move_to(at_ + 1);
    }
  }

  /// Skips "raw %}" if that is here.
  bool begins_raw() {
    std::string_view rest = strip(text_.substr(at_), Side::kLeft);
    if (!rest.starts_with("raw")) return false;
    rest = strip(rest.substr(3), Side::kLeft);
    const bool strips = rest.starts_with("-%}");
    if (!strips && !rest.starts_with("%}")) return false;
    move_to(text_.size() - rest.size() + (strips ? 3 : 2));
    if (strips) skip_space();
    return true;
  }

  void read_raw() {
    for (size_t tag = text_.find("{%", at_); tag != text_.npos; tag = text_.find("{%", tag + 1)) {
      const char begin_sign = sign_at(text_, tag + 2);
      std::string_view rest = text_.substr(tag + 2 + (begin_sign != '\0' ? 1 : 0));
      rest = strip(rest, Side::kLeft);
      if (!rest.starts_with("endraw")) continue;
      rest = strip(rest.substr(6), Side::kLeft);
      const char end_sign = sign_at(rest, 0);
      if (end_sign != '\0') rest.remove_prefix(1);
      if (!rest.starts_with("%}")) continue;
      push_data(text_.substr(at_, tag - at_), begin_sign, false);
      move_to(text_.size() - rest.size() + 2);
      after_end(end_sign);
      return;
    }
    fail_here("expected {% endraw %}, got the end of the template");
  }

  void read_tag(bool is_variable) {
    const std::string_view closing = is_variable ? "}}" : "%}";
    // The closing brackets that are still to come.
    std::string brackets;
    for (;;) {
      if (at_ >= text_.size())
        fail_here(fmt::format("expected \"{}\", got the end of the template", closing));
      if (brackets.empty() && read_tag_end(closing, is_variable)) return;
      const char c = text_[at_];
      if (is_ascii_space(c)) {
        skip_space();
      } else if (is_ascii_digit(c)) {
        read_number();
      } else if (is_name_start(c)) {
        size_t end = at_;
        while (end < text_.size() && is_name_part(text_[end])) ++end;
        push(TokenKind::kName, std::string(text_.substr(at_, end - at_)));
        move_to(end);
      } else if (c == '\'' || c == '"') {
        read_string(c);
      } else {
        read_operator(brackets);
      }
    }
  }

  bool read_tag_end(std::string_view closing, bool is_variable) {
    const char sign = sign_at(text_, at_);
    const bool has_sign = sign == '-' || (sign == '+' && !is_variable);
    if (!text_.substr(at_ + (has_sign ? 1 : 0)).starts_with(closing)) return false;
    push(is_variable ? TokenKind::kVariableEnd : TokenKind::kBlockEnd, "");
    move_to(at_ + (has_sign ? 3 : 2));
    if (!is_variable) {
      after_end(has_sign ? sign : '\0');
    } else if (has_sign) {
      skip_space();
    }
    return true;
  }

  /// Where a run of digits (with single underscores between) ends.
  size_t digits_end(size_t from) const {
    size_t end = from;
    while (end < text_.size() && (is_ascii_digit(text_[end]) ||
                                  (text_[end] == '_' && end > from && end + 1 < text_.size() &&
                                   is_ascii_digit(text_[end + 1]))))
      ++end;
    return end;
  }

  void read_number() {
    if (text_[at_] == '0' && at_ + 1 < text_.size() &&
        std::string_view("bBoOxX").find(text_[at_ + 1]) != std::string_view::npos)
      fail_here("expected decimal numbers, got one with a prefix");
    const bool after_dot = at_ > 0 && text_[at_ - 1] == '.';
    size_t end = digits_end(at_);
    bool is_float = false;
    if (!after_dot) {
      if (end + 1 < text_.size() && text_[end] == '.' && is_ascii_digit(text_[end + 1])) {
        end = digits_end(end + 1);
        is_float = true;
      }
      if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
        const size_t digits = end + 1 + (sign_at(text_, end + 1) != '\0' ? 1 : 0);
        if (digits < text_.size() && is_ascii_digit(text_[digits])) {
          end = digits_end(digits);
          is_float = true;
        }
      }
    }
    std::string number(text_.substr(at_, end - at_));
    std::erase(number, '_');
    if (!is_float && number.size() > 1 && number[0] == '0' &&
        number.find_first_not_of('0') != number.npos)
      fail_here(fmt::format("expected a number without leading zeros, got {}", number));
    push(is_float ? TokenKind::kFloat : TokenKind::kInteger, std::move(number));
    move_to(end);
  }

  void read_operator(std::string& brackets) {
    constexpr std::array<std::string_view, 6> kLong = {"//", "**", "==", "!=", ">=", "<="};
    constexpr std::string_view kShort = "+-/*%~[](){}><=.:|,;";
    const char c = text_[at_];
    for (const std::string_view symbol : kLong) {
      if (!starts(symbol)) continue;
      push(TokenKind::kOperator, std::string(symbol));
      move_to(at_ + 2);
      return;
    }
    if (kShort.find(c) == kShort.npos)
      fail_here(fmt::format("expected an expression, got the character {}", quote_repr({&c, 1})));
    if (c == '(') brackets += ')';
    if (c == '[') brackets += ']';
    if (c == '{') brackets += '}';
    if (c == ')' || c == ']' || c == '}') {
      if (brackets.empty() || brackets.back() != c)
        fail_here(fmt::format("expected balanced brackets, got \"{}\"", c));
      brackets.pop_back();
    }
    push(TokenKind::kOperator, std::string(1, c));
    move_to(at_ + 1);
  }

  void read_string(char quote) {
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) fail_here("expected the end of a string, got the end of the template");
    push(TokenKind::kString, unescape(text_.substr(at_ + 1, end - at_ - 1)));
    move_to(end + 1);
  }

  /// Python's escapes; an unknown one keeps its backslash.
  std::string unescape(std::string_view text) const {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\' || i + 1 == text.size()) {
        out += text[i];
        continue;
      }
      const char c = text[++i];
      constexpr std::string_view kNames = "nrtabfv\\'\"";
      constexpr std::string_view kMeanings = "\n\r\t\a\b\f\v\\'\"";
      if (const size_t known = kNames.find(c); known != kNames.npos) {
        out += kMeanings[known];
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        append_utf8(out, code_point(text.substr(i + 1, digits), digits));
        i += digits;
      } else if (c >= '0' && c <= '7') {
        size_t end = i;
        char32_t value = 0;
        while (end < text.size() && end < i + 3 && text[end] >= '0' && text[end] <= '7')
          value = value * 8 + static_cast<char32_t>(text[end++] - '0');
        append_utf8(out, value);
        i = end - 1;
      } else if (c == 'N') {
        fail_here("expected escapes with digits in a string, got \\N");
      } else if (c != '\n') {
        // A backslash at the end of a line joins it with the next.
        out += '\\';
        out += c;
      }
    }
    return out;
  }

  char32_t code_point(std::string_view digits, size_t wanted) const {
    const bool is_hex = digits.size() == wanted &&
                        digits.find_first_not_of("0123456789abcdefABCDEF") == digits.npos;
    if (!is_hex) fail_here(fmt::format("expected {} hexadecimal digits in an escape", wanted));
    const auto value = static_cast<char32_t>(std::stoul(std::string(digits), nullptr, 16));
    if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000))
      fail_here("expected an escape of a Unicode character, got a surrogate or more");
    return value;
  }

  std::string source_;
  std::string_view text_;
  size_t at_ = 0;
  int line_ = 1;
  // Whether the last match ended with a line end.
  bool starts_line_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize_template(std::string_view source) { return Lexer(source).run(); }

}  // namespace lockstep::text::jinja
