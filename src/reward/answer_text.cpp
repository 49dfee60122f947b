// SPDX-License-Identifier: Apache-2.0
#include "reward/answer_text.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>
#include <vector>

#include "reward/pattern.h"
#include "text/jinja/string.h"

namespace lockstep::reward {
namespace {

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
/// Bytes of other alphabets count as letters.
bool is_word_byte(char c) {
  return is_letter(c) || is_digit(c) || static_cast<unsigned char>(c) >= 0x80;
}

/// The inside of `open` … `close` if they enclose all of the text, and not two parts of it.
bool unwrap(std::string_view& text, std::string_view open, std::string_view close) {
  const bool is_wrapped =
      text.size() > open.size() + close.size() && text.starts_with(open) && text.ends_with(close);
  if (!is_wrapped) return false;
  const std::string_view inside =
      text.substr(open.size(), text.size() - open.size() - close.size());
  if (inside.find(open) != inside.npos || inside.find(close) != inside.npos) return false;
  text = inside;
  return true;
}

/// The inside of \boxed{…} and the like if the brace closes at the end.
bool unwrap_command(std::string_view& text, std::string_view command) {
  if (!text.starts_with(command) || !text.ends_with('}')) return false;
  const size_t open = text.find_first_not_of(' ', command.size());
  if (open == text.npos || text[open] != '{') return false;
  int depth = 0;
  for (size_t i = open; i + 1 < text.size(); ++i) {
    if (text[i] == '{') ++depth;
    if (text[i] == '}' && --depth == 0) return false;
  }
  if (depth != 1) return false;
  text = text.substr(open + 1, text.size() - open - 2);
  return true;
}

bool unwrap_once(std::string_view& text) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 9> kPairs = {
      {{"$$", "$$"},
       {"$", "$"},
       {"\\(", "\\)"},
       {"\\[", "\\]"},
       {"**", "**"},
       {"__", "__"},
       {"*", "*"},
       {"`", "`"},
       {"\"", "\""}}};
  static constexpr std::array<std::string_view, 10> kCommands = {
      "\\boxed",  "\\fbox",   "\\text",   "\\mbox",   "\\mathrm",
      "\\textbf", "\\mathbf", "\\textrm", "\\textit", "\\mathit"};
  text = text::jinja::strip(text);
  for (const auto& [open, close] : kPairs) {
    if (unwrap(text, open, close)) return true;
  }
  for (const std::string_view command : kCommands) {
    if (unwrap_command(text, command)) return true;
  }
  if (text.size() > 1 && text.ends_with('.') && !text.ends_with("..")) {
    text.remove_suffix(1);
    return true;
  }
  return false;
}

/// Spaces of LaTeX are spaces, a fraction is a fraction in any size, commands of two names have
/// one, and what stands in \text{…} stands without it.
std::string plain_setting(std::string_view latex) {
  static const Pattern setting(
      R"(\\(?:text|mbox|mathrm|textbf|mathbf|textrm|textit|mathit)\s*\{([^{}\\]*)\})");
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 27> kReplaced = {
      {{"\\lnot", "\\neg"},
       {"\\land", "\\wedge"},
       {"\\lor", "\\vee"},
       {"\\leq", "\\le"},
       {"\\leqslant", "\\le"},
       {"\\geq", "\\ge"},
       {"\\geqslant", "\\ge"},
       {"\\neq", "\\ne"},
       {"\\rightarrow", "\\to"},
       {"\\varnothing", "\\emptyset"},
       {"\\lt", "<"},
       {"\\gt", ">"},
       {"\\lbrace", "\\{"},
       {"\\rbrace", "\\}"},
       {"\\thinspace", " "},
       {"\\dfrac", "\\frac"},
       {"\\tfrac", "\\frac"},
       {"\\left", ""},
       {"\\right", ""},
       {"\\displaystyle", ""},
       {"\\,", " "},
       {"\\;", " "},
       {"\\:", " "},
       {"\\!", ""},
       {"\\ ", " "},
       {"~", " "},
       {"\\$", "$"}}};
  constexpr size_t kLongest = 1'000;
  // What is longer is no answer with words in it.
  const std::string text =
      latex.size() > kLongest ? std::string(latex) : setting.replace_all(latex, "$1");
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const auto* found = std::find_if(kReplaced.begin(), kReplaced.end(), [&](const auto& replaced) {
      const auto& [from, to] = replaced;
      if (text.compare(i, from.size(), from) != 0) return false;
      // \left is no part of \leftarrow.
      const size_t end = i + from.size();
      return !is_letter(from.back()) || end == text.size() || !is_letter(text[end]);
    });
    if (found == kReplaced.end()) {
      out += text[i++];
    } else {
      out += found->second;
      i += found->first.size();
    }
  }
  return out;
}

std::string with_single_spaces(std::string_view text) {
  std::string out;
  for (const std::string& part : text::jinja::split(text, std::nullopt, -1)) {
    if (!out.empty() && is_word_byte(out.back()) && is_word_byte(part.front())) out += ' ';
    out += part;
  }
  return out;
}

}  // namespace

std::string trimmed_answer(std::string_view text) {
  std::string held = plain_setting(text);
  std::string_view inside = held;
  while (unwrap_once(inside)) {
  }
  std::string result = with_single_spaces(inside);
  // Choices
  const bool is_choice = result.size() == 3 && result.front() == '(' && result.back() == ')';
  if (is_choice && is_letter(result[1])) return result.substr(1, 1);
  if (result.size() == 2 && is_letter(result[0]) && result[1] == ')') return result.substr(0, 1);
  return result;
}

bool Choices::is_met_by(const Choices& answer) const {
  std::string given = answer.letters;
  if (std::is_sorted(letters.begin(), letters.end())) std::sort(given.begin(), given.end());
  return !letters.empty() && letters == given && (is_bare || answer.is_bare);
}

Choices choices_in(std::string_view text) {
  constexpr size_t kLongest = 200;
  static const Pattern setting(R"(\\(?:text|mbox|mathrm|textbf|mathbf|textrm|bf)\s*\{([^{}]*)\})"),
      marks(R"([$*~]|\\(?:q?quad|[ ,;:!()\[\]]))"),
      lead(R"(^\s*(?i:(?:so|thus|therefore|hence)?,?\s*(?:i\s+(?:choose|pick|select)|)"
           R"((?:the\s+)?(?:final\s+|correct\s+|right\s+)?(?:answer|choice|option)s?))"
           R"((?:\s+(?:is|are))?(?:\s+(?:option|choice)s?)?\s*:?)\s*)"),
      tail(R"((?<=[A-J]|[A-J]\))\s+(?i:is(?:\s+the)?\s+(?:correct|right|true|answer))"
           R"((?:\s+(?:answer|choice|option))?\s*\.?\s*$))"),
      one(R"(^(?:\([A-J]\)|[A-J](?=[.):]|\s*$)))"),
      list(R"(^\(?[A-J]\)?(?:\s*(?:,|;|,?\s*(?:and|or)|&|\s)\s*\(?[A-J]\)?)+\s*\.?\s*$)"),
      letter(R"(\b[A-J]\b)"), run(R"(^(?:([A-H])(?!.*\1))+\s*\.?\s*$)");
  if (text.size() > kLongest) return {};
  std::string plain = marks.replace_all(setting.replace_all(text, "$1"), " ");
  plain = text::jinja::strip(tail.replace_all(lead.replace_all(plain, ""), ""));
  const auto capitals = [&] {
    std::string letters;
    for (const char c : plain)
      if (c >= 'A' && c <= 'J') letters += c;
    return letters;
  };
  if (!list.find_all(plain).empty()) return {capitals(), true};
  if (!run.find_all(plain).empty() && capitals().size() > 1) return {capitals(), true};
  const std::vector<PatternMatch> found = one.find_all(plain);
  // "(A) or (B)" names two.
  if (found.empty() || letter.find_all(plain).size() > 1) return {};
  const bool is_bare = plain.find_first_not_of("ABCDEFGHIJ().: ") == plain.npos;
  return {capitals().substr(0, 1), is_bare};
}

std::string text_of_choice(std::string_view text) {
  constexpr size_t kLongest = 200;
  static const Pattern choice(R"(^[\s$]*(?:\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{)?\s*\([A-J]\))"
                              R"((?:\s|\}|~|:|\\[ ,;:]|\\q?quad)*([^\s})~:].*?)[\s$]*$)");
  if (text.size() > kLongest) return {};
  const std::vector<PatternMatch> found = choice.find_all(text);
  if (found.empty()) return {};
  std::string_view inside = found[0].groups[1];
  const auto open = std::count(inside.begin(), inside.end(), '{');
  const auto close = std::count(inside.begin(), inside.end(), '}');
  // \text{(C) apples}
  if (close == open + 1 && inside.ends_with('}')) inside.remove_suffix(1);
  return std::string(inside);
}

std::string with_plain_groups(std::string_view text) {
  static const Pattern space("(?<=\\d)(?:\u2009|\u202f|\u00a0|\u2007)(?=\\d)"),
      groups(R"((?<![\w.'’])\d{1,3}(?:['’_]\d{3})+(?![\w'’]))"), mark(R"(['’_])");
  constexpr size_t kLongest = 1'000;
  if (text.size() > kLongest) return std::string(text);
  std::string spaced = space.replace_all(text, " ");
  if (spaced.find_first_of("\\$") != spaced.npos) return spaced;
  std::string out;
  size_t at = 0;
  for (const PatternMatch& match : groups.find_all(spaced)) {
    out += spaced.substr(at, match.begin - at) + mark.replace_all(match.groups[0], "");
    at = match.end;
  }
  return out + spaced.substr(at);
}

std::optional<std::string_view> without_rounding(std::string_view text) {
  constexpr size_t kLongest = 500;
  static const Pattern rounded(
      R"(^(.*?[^\s,(])\s*[,(]?\s*(?i:(?:or|which\s+is|i\.e\.,?)\s+)?)"
      R"((?:(?i:\b(?<!\\)(?:approximately|approx\.?|about|roughly|around))|≈)\s*\$?\s*)"
      R"(-?[\d,]*\.?\d+(?:\s*[a-z]+)?\s*\$?\s*\)?\s*\.?$)");
  if (text.size() > kLongest) return std::nullopt;
  const std::vector<PatternMatch> found = rounded.find_all(text);
  if (found.empty()) return std::nullopt;
  const std::string_view exact = found[0].groups[1];
  // Within a formula, the sign of its rounding is the formula's own; words are not rounded.
  const bool is_cut = std::count(exact.begin(), exact.end(), '$') % 2 != 0;
  const bool is_formula = exact.find_first_of("0123456789$\\") != exact.npos;
  return is_cut || !is_formula ? std::nullopt : std::optional(exact);
}

bool is_date(std::string_view text) {
  static const Pattern date(
      R"(^(?:[12]\d{3}([-/.])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01]))"
      R"(|(?:0?[1-9]|[12]\d|3[01])([-/.])(?:0?[1-9]|[12]\d|3[01])\2[12]\d{3})$)");
  constexpr size_t kLongest = 10;
  return text.size() <= kLongest && !date.find_all(text).empty();
}

std::optional<ClockTime> clock_time(std::string_view text) {
  static const Pattern time(
      R"(^(\d{1,2}:\d\d|\d{1,2}(?=\s*[AaPp]))(?:\s*([AaPp])\.?\s?[Mm]\.?)?$)");
  constexpr size_t kLongest = 20;
  if (text.size() > kLongest) return std::nullopt;
  const std::vector<PatternMatch> found = time.find_all(text::jinja::strip(text));
  if (found.empty()) return std::nullopt;
  const std::string half = text::jinja::to_lower(found[0].groups[2]);
  return ClockTime{std::string(found[0].groups[1]), half.empty() ? "" : half + "m"};
}

bool have_different_numbers(std::string_view gold, std::string_view answer) {
  constexpr size_t kLongest = 80;
  static const Pattern number(R"(\d+(?:,\d{3})*(?:[./]\d+)*)");
  const auto numbers_in = [](std::string_view text) {
    std::vector<std::string> numbers;
    const bool has_words = std::any_of(text.begin(), text.end(), is_letter);
    if (!has_words || text.size() > kLongest || text.find_first_of("\n=#$\\^{}") != text.npos)
      return numbers;
    for (const PatternMatch& match : number.find_all(text)) {
      numbers.emplace_back(match.groups[0]);
      std::erase(numbers.back(), ',');
    }
    return numbers;
  };
  const auto expected = numbers_in(gold), given = numbers_in(answer);
  return expected.size() > 1 && given.size() > 1 && expected != given;
}

std::string without_emphasis(std::string_view text) {
  constexpr std::string_view kMark = "**";
  const auto is_free = [&](size_t at) {  // no operand touches the mark
    return at >= text.size() ||
           (!is_word_byte(text[at]) && text[at] != ')' && text[at] != '}' && text[at] != '*');
  };
  std::string out;
  size_t at = 0;
  while (at < text.size()) {
    const size_t open = text.find(kMark, at);
    const size_t close = open == text.npos ? open : text.find(kMark, open + kMark.size());
    if (close == text.npos) break;
    const bool is_emphasis = (open == 0 || is_free(open - 1)) && is_free(close + kMark.size()) &&
                             close > open + kMark.size();
    if (is_emphasis) {
      out += text.substr(at, open - at);
      out += text.substr(open + kMark.size(), close - open - kMark.size());
      at = close + kMark.size();
    } else {
      out += text.substr(at, open + kMark.size() - at);
      at = open + kMark.size();
    }
  }
  return out += text.substr(std::min(at, text.size()));
}

bool may_be_formula(std::string_view text) {
  static constexpr std::array<std::string_view, 12> kNames = {
      "sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt", "gcd", "lcm", "theta"};
  constexpr size_t kShortestWord = 3;
  for (size_t i = 0; i < text.size();) {
    if (text[i] == '\n' || static_cast<unsigned char>(text[i]) == 0xff) return false;
    const bool is_command = text[i] == '\\';
    size_t end = i + 1;
    while (end < text.size() && is_letter(text[end])) ++end;
    if (is_command) {
      // What stands in \text{…} is a word of the formula.
      const std::string_view name = text.substr(i, end - i);
      const bool is_text = name == "\\text" || name == "\\mbox" || name == "\\begin" ||
                           name == "\\end" || name == "\\operatorname";
      const size_t close = is_text ? text.find('}', end) : text.npos;
      i = close == text.npos ? end : close;
      continue;
    }
    if (!is_letter(text[i])) {
      ++i;
      continue;
    }
    const std::string_view word = text.substr(i, end - i);
    const bool is_name = std::find(kNames.begin(), kNames.end(), word) != kNames.end();
    if (word.size() >= kShortestWord && !is_name) return false;
    i = end;
  }
  return !text.empty();
}

namespace {

bool has_few_words(std::string_view text) {
  constexpr int64_t kMostWords = 5;
  const auto count = static_cast<int64_t>(text::jinja::split(text, std::nullopt, -1).size());
  return count >= 1 && count <= kMostWords;
}

bool has_words(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return is_letter(c) || static_cast<unsigned char>(c) >= 0x80; });
}

}  // namespace

bool is_phrase(std::string_view text) {
  const bool has_words_only = std::all_of(text.begin(), text.end(), [](char c) {
    return is_letter(c) || c == ' ' || c == '-' || static_cast<unsigned char>(c) >= 0x80;
  });
  return has_words_only && has_words(text) && has_few_words(text);
}

bool is_short_text(std::string_view text) {
  return has_words(text) && text.find_first_of("$\\\n") == text.npos && has_few_words(text);
}

}  // namespace lockstep::reward
