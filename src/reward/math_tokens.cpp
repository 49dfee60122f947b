// LaTeX's tokens.
// SPDX-License-Identifier: Apache-2.0
#include "reward/math_tokens.h"

#include <utility>

namespace lockstep::reward {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

class Tokenizer {
 public:
  explicit Tokenizer(std::string_view text) : text_(text) {}

  std::vector<Token> run() {
    std::vector<Token> tokens;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      const size_t begin = at_;
      if (c == ' ') {
        ++at_;
      } else if (is_digit(c) || (c == '.' && at_ + 1 < text_.size() && is_digit(text_[at_ + 1]))) {
        tokens.push_back({TokenKind::kNumber, number(), begin});
      } else if (is_letter(c)) {
        ++at_;
        tokens.push_back({TokenKind::kLetter, std::string(1, c), begin});
      } else if (c == '\\') {
        read_command(tokens);
      } else {
        ++at_;
        count_bracket(c);
        tokens.push_back({TokenKind::kSymbol, std::string(1, c), begin});
      }
    }
    tokens.push_back({TokenKind::kEnd, "", text_.size()});
    return tokens;
  }

 private:
  void count_bracket(char c) {
    if (c == '(' || c == '[' || c == '{') ++depth_;
    if (c == ')' || c == ']' || c == '}') --depth_;
  }

  /// "1,234,567.8" without its commas: groups of three behind one to three digits. Between brackets
  /// a comma separates elements.
  std::string number() {
    std::string digits;
    while (at_ < text_.size() && is_digit(text_[at_])) digits += text_[at_++];
    const bool may_group = depth_ == 0 && !digits.empty() && digits.size() <= 3;
    while (may_group && has_group()) {
      digits += text_.substr(at_ + 1, 3);
      at_ += 4;
    }
    if (at_ < text_.size() && text_[at_] == '.') {
      const bool has_digits = at_ + 1 < text_.size() && is_digit(text_[at_ + 1]);
      if (!has_digits) throw NotUnderstood{};
      digits += text_[at_++];
      while (at_ < text_.size() && is_digit(text_[at_])) digits += text_[at_++];
    }
    return digits;
  }

  bool has_group() const {
    if (at_ + 3 >= text_.size() || text_[at_] != ',') return false;
    const bool are_digits =
        is_digit(text_[at_ + 1]) && is_digit(text_[at_ + 2]) && is_digit(text_[at_ + 3]);
    return are_digits && (at_ + 4 == text_.size() || !is_digit(text_[at_ + 4]));
  }

  void read_command(std::vector<Token>& tokens) {
    const size_t begin = at_++;
    std::string name;
    while (at_ < text_.size() && is_letter(text_[at_])) name += text_[at_++];
    if (name.empty()) {
      if (at_ == text_.size()) throw NotUnderstood{};
      name = text_[at_++];
      count_bracket(name[0]);
      constexpr std::string_view kSpaces = ",;:! ";
      if (kSpaces.find(name) != kSpaces.npos) return;
    }
    for (const std::string_view ignored :
         {"quad", "qquad", "limits", "displaystyle", "left", "right"}) {
      if (name == ignored) return;
    }
    tokens.push_back({TokenKind::kCommand, std::move(name), begin});
  }

  std::string_view text_;
  size_t at_ = 0;
  int depth_ = 0;  // of brackets
};

}  // namespace

std::vector<Token> tokenize_math(std::string_view text) { return Tokenizer(text).run(); }

}  // namespace lockstep::reward
