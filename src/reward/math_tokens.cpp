// LaTeX's tokens.
// SPDX-License-Identifier: Apache-2.0
#include "reward/math_tokens.h"

#include <algorithm>
#include <array>
#include <utility>

namespace lockstep::reward {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/// Commands that change how something looks and not what it means.
constexpr std::array<std::string_view, 23> kIgnored = {
    "forall", "quad",  "qquad", "limits", "nolimits", "displaystyle", "textstyle", "left",
    "right",  "big",   "Big",   "bigg",   "Bigg",     "bigl",         "bigr",      "Bigl",
    "Bigr",   "biggl", "biggr", "Biggl",  "Biggr",    "thinspace",    "middle"};

/// Words that stand for a command of the same name where they stand alone.
constexpr std::array<std::string_view, 22> kWords = {
    "sqrt", "sin",    "cos",    "tan",    "cot", "sec",   "csc",   "log",   "ln",   "exp",   "pi",
    "gcd",  "arcsin", "arccos", "arctan", "lcm", "infty", "theta", "alpha", "beta", "gamma", "phi"};

template <class Names>
bool contains(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

class Tokenizer {
 public:
  explicit Tokenizer(std::string_view text) : text_(text) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      begin_ = at_;
      if (c == ' ' || c == '~') {
        ++at_;
      } else if (is_digit(c) || (c == '.' && has_digits(at_ + 1, 1))) {
        put(TokenKind::kNumber, number());
      } else if (is_letter(c)) {
        read_letters();
      } else if (c == '\\') {
        read_command();
      } else {
        ++at_;
        count_bracket(c);
        put(TokenKind::kSymbol, std::string(1, c));
      }
    }
    begin_ = at_;
    put(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  void put(TokenKind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), begin_, at_});
  }

  void count_bracket(char c) {
    if (c == '(' || c == '[') ++depth_;
    if (c == ')' || c == ']') --depth_;
  }

  bool has_digits(size_t at, size_t count) const {
    if (at + count > text_.size()) return false;
    return std::all_of(text_.begin() + static_cast<ptrdiff_t>(at),
                       text_.begin() + static_cast<ptrdiff_t>(at + count), is_digit);
  }
  std::string take_digits() {
    const size_t begin = at_;
    while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
    return std::string(text_.substr(begin, at_ - begin));
  }

  /// What separates groups of digits here, or nothing.
  std::string_view separator() const {
    static constexpr std::array<std::string_view, 9> kSeparators = {
        ",\\!", "\\,", "\\!", "\\:", "\\;", "\\ ", ",", "~", " "};
    for (const std::string_view separator : kSeparators) {
      if (text_.substr(at_, separator.size()) != separator) continue;
      // Between brackets a comma separates elements.
      return separator[0] == ',' && depth_ > 0 ? std::string_view() : separator;
    }
    return {};
  }

  /// Whether exactly three digits follow the separator.
  bool has_group(std::string_view separator) const {
    if (separator.empty() || text_.substr(at_, separator.size()) != separator) return false;
    const size_t group = at_ + separator.size();
    return has_digits(group, 3) && !has_digits(group, 4);
  }

  void take_groups(std::string& digits) {
    const bool may_group = !digits.empty() && digits.size() <= 3 && digits[0] != '0';
    if (!may_group) return;
    const std::string_view first = separator();
    while (has_group(first)) {
      at_ += first.size();
      digits += take_digits();
    }
    if (digits.size() > 3) return;
    // 1.234.567: from two groups on a point separates thousands.
    const bool has_two = has_group(".") && at_ + 4 < text_.size() && text_[at_ + 4] == '.' &&
                         has_digits(at_ + 5, 3) && !has_digits(at_ + 5, 4);
    while (has_two && has_group(".")) {
      ++at_;
      digits += take_digits();
    }
  }

  std::string number() {
    std::string digits = take_digits();
    take_groups(digits);
    if (at_ == text_.size() || text_[at_] != '.') return digits;
    digits += text_[at_++];
    std::string places = take_digits();
    // The last group behind the point may be shorter.
    while (places.size() % 3 == 0 && !places.empty() && separator().starts_with('\\') &&
           has_digits(at_ + separator().size(), 1) && !has_digits(at_ + separator().size(), 4)) {
      at_ += separator().size();
      places += take_digits();
    }
    const std::string period = take_period();
    if (places.empty() && period.empty()) throw NotUnderstood{};
    digits += places;
    return period.empty() ? digits + take_exponent() : digits + "(" + period + ")";
  }

  /// "e3" behind a decimal point, as programs write a power of ten; 2e3 without one may be 2·e·3.
  std::string take_exponent() {
    if (at_ == text_.size() || (text_[at_] != 'e' && text_[at_] != 'E')) return "";
    size_t begin = at_ + 1;
    if (begin < text_.size() && (text_[begin] == '+' || text_[begin] == '-')) ++begin;
    size_t end = begin;
    while (end < text_.size() && is_digit(text_[end])) ++end;
    const bool goes_on = end < text_.size() && (is_letter(text_[end]) || text_[end] == '^' ||
                                                text_[end] == '.' || text_[end] == '\\');
    if (end == begin || goes_on) return "";
    const std::string_view exponent = text_.substr(at_, end - at_);
    at_ = end;
    return std::string(exponent);
  }

  /// \overline{36}, \bar{3} or \dot{3}\dot{6}: digits that repeat without end.
  std::string take_period() {
    std::string period;
    for (const std::string_view command : {"\\overline{", "\\bar{", "\\dot{"}) {
      while (text_.substr(at_, command.size()) == command) {
        const size_t begin = at_;
        at_ += command.size();
        const std::string digits = take_digits();
        const bool is_closed = !digits.empty() && at_ < text_.size() && text_[at_] == '}';
        if (!is_closed) {
          at_ = begin;
          return period;
        }
        ++at_;
        period += digits;
        if (command != "\\dot{") return period;
        // Between two dots the digits repeat, too.
        const size_t next = text_.find("\\dot{", at_);
        if (next != text_.npos && has_digits(at_, next - at_)) period += take_digits();
      }
    }
    return period;
  }

  void read_letters() {
    size_t end = at_;
    while (end < text_.size() && is_letter(text_[end])) ++end;
    const std::string_view run = text_.substr(at_, end - at_);
    if (contains(kWords, run)) {
      at_ = end;
      // "surd" takes what follows without braces, too.
      put(TokenKind::kCommand, run == "sqrt" ? "surd" : std::string(run));
      return;
    }
    for (; at_ < end;) {
      begin_ = at_++;
      put(TokenKind::kLetter, std::string(1, text_[begin_]));
    }
  }

  void read_command() {
    ++at_;
    std::string name;
    while (at_ < text_.size() && is_letter(text_[at_])) name += text_[at_++];
    if (name.empty()) {
      if (at_ == text_.size()) throw NotUnderstood{};
      name = text_[at_++];
      if (name == "{") ++depth_;
      if (name == "}") --depth_;
      constexpr std::string_view kSpaces = ",;:! ";
      if (kSpaces.find(name) != kSpaces.npos) return;
    }
    if (contains(kIgnored, name)) return;
    put_command(std::move(name));
  }

  /// Commands that only name a character are that character.
  void put_command(std::string name) {
    static constexpr std::array<std::pair<std::string_view, std::string_view>, 14> kCharacters = {
        {{"lvert", "|"},
         {"rvert", "|"},
         {"vert", "|"},
         {"lbrack", "["},
         {"rbrack", "]"},
         {"lparen", "("},
         {"rparen", ")"},
         {"colon", ":"},
         {"lt", "<"},
         {"gt", ">"},
         {"ast", "*"},
         {"star", "*"},
         {"slash", "/"},
         {"cdotp", "*"}}};
    if (name == "|" || name == "Vert" || name == "lVert" || name == "rVert") {
      put(TokenKind::kSymbol, "|");
      name = "vert";
    }
    if (name == "lbrace") name = "{";
    if (name == "rbrace") name = "}";
    for (const auto& [command, character] : kCharacters) {
      if (command != name) continue;
      count_bracket(character[0]);
      put(TokenKind::kSymbol, std::string(character));
      return;
    }
    put(TokenKind::kCommand, std::move(name));
  }

  std::string_view text_;
  std::vector<Token> tokens_;
  size_t at_ = 0, begin_ = 0;
  int depth_ = 0;  // of brackets
};

}  // namespace

std::vector<Token> tokenize_math(std::string_view text) { return Tokenizer(text).run(); }

}  // namespace lockstep::reward
