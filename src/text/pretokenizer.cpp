// The two patterns of Qwen by hand: each alternative is a function, tried in the pattern's order.
// SPDX-License-Identifier: Apache-2.0
#include "text/pretokenizer.h"

#include "text/unicode.h"

namespace lockstep::text {
namespace {

/// Matches one word at a position. In comments, W is [\p{L}\p{M}] for Qwen3.5 and \p{L} for Qwen3.
class QwenMatcher {
 public:
  QwenMatcher(std::string_view text, bool marks_are_letters)
      : text_(text), marks_are_letters_(marks_are_letters) {}

  size_t word_end(size_t begin) const {
    if (text_[begin] == '\'') {
      if (const size_t end = contraction(begin); end > 0) return end;
    }
    const Char first = at(begin);
    // Matches W+.
    if (is_word(first)) return word_run(begin + first.size);
    if (first.kind == CharClass::kNumber) return begin + first.size;
    const size_t second_at = begin + first.size;
    // Matches [^\r\n\p{L}\p{N}]W+.
    if (!is_newline(begin) && second_at < text_.size()) {
      const Char second = at(second_at);
      if (is_word(second)) return word_run(second_at + second.size);
      if (text_[begin] == ' ' && is_symbol(second)) return symbol_run(second_at);
    }
    if (is_symbol(first)) return symbol_run(begin);
    return space_run(begin);
  }

 private:
  struct Char {
    CharClass kind;
    uint32_t size;
  };

  Char at(size_t i) const {
    const DecodedChar decoded = decode_char(text_, i);
    return {class_of(decoded.code_point), decoded.size};
  }
  bool is_newline(size_t i) const { return text_[i] == '\r' || text_[i] == '\n'; }
  bool is_word(Char c) const {
    return c.kind == CharClass::kLetter || (c.kind == CharClass::kMark && marks_are_letters_);
  }
  /// [^\s\p{L}\p{M}\p{N}], or without \p{M}.
  bool is_symbol(Char c) const {
    return c.kind == CharClass::kOther || (c.kind == CharClass::kMark && !marks_are_letters_);
  }

  /// (?i:'s|'t|'re|'ve|'m|'ll|'d), or 0.
  size_t contraction(size_t begin) const {
    const std::string_view rest = text_.substr(begin + 1);
    if (rest.empty()) return 0;
    const auto lower = [&](size_t i) {
      return i < rest.size() ? static_cast<char>(rest[i] | 0x20) : '\0';
    };
    switch (lower(0)) {
      case 's':
      case 't':
      case 'm':
      case 'd':
        return begin + 2;
      case 'r':
      case 'v':
        return lower(1) == 'e' ? begin + 3 : 0;
      case 'l':
        return lower(1) == 'l' ? begin + 3 : 0;
      default:
        // U+017F, the long s, is an s without case.
        return rest.substr(0, 2) == "\xc5\xbf" ? begin + 3 : 0;
    }
  }

  size_t word_run(size_t i) const {
    while (i < text_.size()) {
      const Char c = at(i);
      if (!is_word(c)) break;
      i += c.size;
    }
    return i;
  }

  /// [^\s W \p{N}]+[\r\n]*
  size_t symbol_run(size_t i) const {
    while (i < text_.size()) {
      const Char c = at(i);
      if (!is_symbol(c)) break;
      i += c.size;
    }
    while (i < text_.size() && is_newline(i)) ++i;
    return i;
  }

  /// \s*[\r\n]+|\s+(?!\S)|\s+
  size_t space_run(size_t begin) const {
    size_t i = begin, last = begin, past_newline = 0;
    while (i < text_.size()) {
      const Char c = at(i);
      if (c.kind != CharClass::kSpace) break;
      if (is_newline(i)) past_newline = i + 1;
      last = i;
      i += c.size;
    }
    if (past_newline > 0) return past_newline;
    // Before a character that is no space, the run leaves its last one to the next word.
    return i == text_.size() || last == begin ? i : last;
  }

  std::string_view text_;
  bool marks_are_letters_;
};

}  // namespace

Pretokenizer::Pretokenizer(std::string_view pattern, std::string_view where) {
  if (pattern == kQwen35Pattern) {
    marks_are_letters_ = true;
  } else if (pattern != kQwen3Pattern) {
    regex_ = std::make_unique<Regex>(pattern, where);
  }
}

size_t Pretokenizer::word_end(std::string_view text, size_t begin, RegexScratch& scratch) const {
  if (!regex_) return QwenMatcher(text, marks_are_letters_).word_end(begin);
  // An empty match ends the word before it and is no word itself.
  for (size_t from = begin; from < text.size();) {
    const RegexMatch match = regex_->find(text, from, scratch);
    if (!match.found) return text.size();
    if (match.begin > begin) return match.begin;
    if (match.end > match.begin) return match.end;
    from = match.end + decode_char(text, match.end).size;
  }
  return text.size();
}

}  // namespace lockstep::text
