// The steps of latex2sympy2_extended's normalize_latex, in its order.
// SPDX-License-Identifier: Apache-2.0
#include "reward/latex_normalize.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <vector>

#include "reward/math_parser.h"  // kLongestFormula
#include "reward/pattern.h"
#include "text/jinja/string.h"

namespace lockstep::reward {
namespace {

struct Rule {
  Pattern pattern;
  std::string_view replacement;
};

std::string apply(const std::vector<Rule>& rules, std::string text) {
  for (const Rule& rule : rules) text = rule.pattern.replace_all(text, rule.replacement);
  return text;
}

std::string_view trimmed(std::string_view text) { return text::jinja::strip(text); }

// --- boxes

/// The end of the brace that opens at `open`, or nothing.
std::optional<size_t> closing_brace(std::string_view text, size_t open, size_t limit) {
  int depth = 1;
  for (size_t i = open + 1; i < limit; ++i) {
    if (text[i] == '{') ++depth;
    if (text[i] == '}' && --depth == 0) return i;
  }
  return std::nullopt;
}

/// Whether a box before the last one belongs to the answer, too.
bool belongs_to_next(std::string_view between, bool is_repeated) {
  static const Pattern separator(R"(\b(and|or)\b|,|;)");
  constexpr int64_t kClose = 10, kNear = 70;  // characters
  const int64_t distance = text::jinja::count_code_points(between);
  if (distance < kClose) return true;
  return !is_repeated && distance < kNear && !separator.find_all(between).empty();
}

// --- basic LaTeX

/// Words and commands with one meaning; the first alternative that matches at a place counts, so
/// they are one expression with one conditional replacement a group.
std::string replace_synonyms(const std::string& text) {
  struct Synonym {
    const char* name;
    const char* expression;
    const char* replacement;
  };
  static constexpr std::array<Synonym, 21> kSynonyms = {{
      {"math", R"(\\math(?:rm|it|bf))", R"(\text)"},
      {"text", R"(\\text(?:normal|bf|it|rm))", R"(\text)"},
      {"frac", R"(\\(?:d|t|c)frac)", R"(\frac)"},
      {"binom", R"(\\[dt]binom)", R"(\binom)"},
      {"decimalspace", R"(\s\.)", " 0."},
      {"decimalbrace", R"(\{\.)", "{0."},
      {"approx", R"(\~\=)", R"(\approx)"},
      {"comma", R"(\s*\{\s*,\s*\})", ","},
      {"andor", R"((?<![a-zA-Z])(?:,?\s*(?:and|or))(?![a-zA-Z]))", ","},
      {"andortext", R"((?:,?\s*\\text{\s*(?:and|or)\s*}))", ","},
      {"space", R"((?<!\\)\\\s)", " "},
      {"infinity", "infinity", R"(\infty)"},
      {"dots", R"(,?(?:\\ldots))", " "},
      {"percentage", R"(\s*\bpercentage\b)", R"(\%)"},
      {"percentagetext", R"(\\text{percentage})", "%"},
      {"percent", R"(\s*\bpercent\b)", R"(\%)"},
      {"percenttext", R"(\\text{percent})", "%"},
      {"pct", R"(\s*\bpct\b)", R"(\%)"},
      {"pcttext", R"(\\text{pct})", "%"},
      {"inf", R"((?:(?<!\\)inf(?!inity)))", R"(\infty)"},
      {"sqrt", " sqrt", R"(\sqrt)"},
  }};
  static const Pattern pattern = [] {
    std::string expression;
    for (const Synonym& synonym : kSynonyms) {
      if (!expression.empty()) expression += '|';
      expression += std::string("(") + synonym.expression + ")";
    }
    return Pattern(expression);
  }();
  std::string out;
  size_t at = 0;
  for (const PatternMatch& match : pattern.find_all(text)) {
    out += text.substr(at, match.begin - at);
    for (size_t i = 0; i < kSynonyms.size(); ++i) {
      if (match.groups[i + 1].data() != nullptr) out += kSynonyms[i].replacement;
    }
    at = match.end;
  }
  return out + text.substr(at);
}

/// 0.1666… is 0.1\overline{6}: digits that come three times, or two at least twice.
std::string with_periods(const std::string& text) {
  static const Pattern kRepeated(
      R"((?<![\d.])(\d*\.\d*?)(?:(\d)\2{2,}|(\d{2,9}?)\3+)\s*(?:\\[lc]?dots|\.{3}|…)(?!\d))");
  const bool has_dots = text.find("dots") != text.npos || text.find("...") != text.npos ||
                        text.find("…") != text.npos;
  if (!has_dots) return text;
  return kRepeated.replace_all(text, R"($1\\overline{$2$3})");
}

std::string normalize_basics(std::string text) {
  static const std::vector<Rule> kBefore = [] {
    std::vector<Rule> rules;
    rules.push_back({Pattern(R"(\\mathbf\s*\{\s*R\s*\}|^\s*\\math(?:rm|sf)\s*\{\s*R\s*\}\s*$)"),
                     R"(\\mathbb{R})"});
    rules.push_back(
        {Pattern(R"(\{\s*([^{}\\]+?)\s*\\choose\s*([^{}\\]+?)\s*\})"), R"(\\binom{$1}{$2})"});
    rules.push_back(
        {Pattern(R"(\{\s*(?:\\[,;:! ]|~)\s*\}|\\[hm]space\*?\s*\{[^{}]*\}|\\thinspace\s*)"),
         R"(\\,)"});
    rules.push_back({Pattern(R"(\\mathrm\{T\})"), "T"});
    rules.push_back({Pattern(R"(\\mathrm\{d\}|\{\\rm d\})"), "d"});
    rules.push_back({Pattern(R"(\\left\[\\begin\{matrix\})"), R"(\\begin{bmatrix})"});
    rules.push_back({Pattern(R"(\\end\{matrix\}\\right\])"), R"(\\end{bmatrix})"});
    rules.push_back(
        {Pattern(
             R"(\\m?left(\\\{|\{|\\\||\||\[|\(|\\[lv](?:brace|brack|ert|ceil|floor|group)|\\langle|\\[lu]lcorner))"),
         "$1"});
    rules.push_back(
        {Pattern(
             R"(\\m?right(\\\}|\}|\\\||\||\]|\)|\\[rv](?:brace|brack|ert|ceil|floor|group)|\\rangle|\\[lu]rcorner))"),
         "$1"});
    rules.push_back({Pattern(R"(\(([a-zA-Z0-9+\-*\/\\ ]+?)\)_{([a-zA-Z0-9+\-*\/\\ ]+?)})"),
                     R"(\\frac{($1)!}{(($1)-($2))!})"});
    rules.push_back(
        {Pattern(R"(\\mathrm\{th\}|\\!\s*|\\text\s*\{\s*\}|\\\$|\$|(?<!\\)["']|\\displaystyle)"),
         ""});
    return rules;
  }();
  static const Pattern kDoubledSlash(R"(\\\\(?=[a-zA-Z]))");
  text = replace_synonyms(apply(kBefore, with_periods(text)));
  std::replace(text.begin(), text.end(), '\n', ' ');
  std::replace(text.begin(), text.end(), '\t', ' ');
  if (text.find("matrix") == text.npos) text = kDoubledSlash.replace_all(text, R"(\\)");
  return text;
}

// --- units

// The longest alternative does not win, the first does: the order is that of the source.
constexpr std::string_view kUnits =
    "integerpoint|feet|sue|digit|pound|meal|edge|student|children ticket|multiple|east|degree|mph|"
    "kmph|ft|m square| m east|sq m|deg|mile|q .|monkey|prime|ratio|profit of rs|rd|o|gm|p . m|lb|"
    "tile|per|dm|lt|gain|ab|way|west|a .|b .|c .|d .|e .|f .|g .|h .|t|h|no change|men|soldier|pie|"
    "bc|excess|st|inches|noon|cent|by|gal|kmh|c|acre|rise|a . m|th|π r 2|sq|mark|l|toy|coin|"
    "sq . m|gallon|° f|profit|minw|yr|women|am|pm|hr|cu cm|square|v â € "
    "™|are|rupee|rounds|cubic|cc|"
    "mtr|s|ohm|number|kmph|day|hour|minute|min|second|man|woman|sec|cube|mt|sq inch|mp|∏ cm ³|"
    "hectare|more|sec|unit|cu . m|cm 2|rs .|rs|kg|g|month|km|m|cm|mm|apple|liter|loss|yard|pure|"
    "year|increase|decrease|d|less|Surface|litre|pi sq m|s .|metre|meter|inch";

std::string remove_units(std::string text) {
  static const Pattern kUnitText(R"((?:\\(?:text|mbox){.*?})(?:\^\d|\{\^\d\})?$)"),
      kLastUnitText(R"((?<=[\d}])\s*\\(?:text|mbox){[^{}]*}(?:\^\d|\^?\{\^?\d\})?$)");
  // latex2sympy leaves it in a box that is kept, where it multiplies the number.
  static const Pattern kUnitInBox(
      R"(^(\s*\\boxed\s*{.*\d.*?)\\(?:text|mbox){[^{}]*}(?:\^\d|\^{\d})?\s*}\s*$)");
  static const Pattern kUnitWord(R"((\d|\}|\s)\s*(?:(?:)" + std::string(kUnits) +
                                 R"()(?:s|es)?)\s*$)");
  const auto keep_if_left = [&text](std::string shorter) {
    if (!shorter.empty()) text = std::move(shorter);
  };
  text = kUnitInBox.replace_all(text, "$1}");
  const std::string before_unit(trimmed(kUnitText.replace_all(text, "")));
  // "\text{Area} = 24\text{ cm}" begins with a text, too.
  keep_if_left(before_unit.empty() ? kLastUnitText.replace_all(text, "") : before_unit);
  for (int i = 0; i < 2; ++i) keep_if_left(kUnitWord.replace_all(text, "$1"));
  return text;
}

// --- malformed operators

/// The next argument of a command as TeX takes it, without its braces: a group, a command with the
/// groups behind it, or one character. Nothing where none is left.
std::optional<std::string_view> take_argument(std::string_view& text) {
  text = text::jinja::strip(text, text::jinja::Side::kLeft);
  if (text.empty() || text[0] == '}') return std::nullopt;
  if (text[0] == '{') {
    const std::optional<size_t> close = closing_brace(text, 0, text.size());
    if (!close) return std::nullopt;
    const std::string_view inside = text.substr(1, *close - 1);
    text.remove_prefix(*close + 1);
    return inside;
  }
  size_t end = 1;
  while (text[0] == '\\' && end < text.size() &&
         std::isalpha(static_cast<unsigned char>(text[end])))
    ++end;
  while (text[0] == '\\' && end < text.size() && text[end] == '{') {
    const std::optional<size_t> close = closing_brace(text, end, text.size());
    if (!close) return std::nullopt;
    end = *close + 1;
  }
  const std::string_view argument = text.substr(0, end);
  text.remove_prefix(end);
  return argument;
}

/// Braces around the arguments of `command`: \frac12 → \frac{1}{2}, \sqrt3 → \sqrt{3}. As it was
/// where something is missing.
std::string with_braces(const std::string& text, std::string_view command, int num_arguments) {
  std::string out;
  std::string_view rest = text;
  for (size_t at = rest.find(command); at != rest.npos; at = rest.find(command)) {
    const size_t end = at + command.size();
    out += rest.substr(0, end);
    rest.remove_prefix(end);
    // \fraction is another command.
    if (!rest.empty() && std::isalpha(static_cast<unsigned char>(rest[0]))) continue;
    std::string_view behind = text::jinja::strip(rest, text::jinja::Side::kLeft);
    if (command == "\\sqrt" && behind.starts_with('[')) {
      const size_t close = behind.find(']');
      if (close == behind.npos) return text;
      out += behind.substr(0, close + 1);
      behind.remove_prefix(close + 1);
    }
    for (int i = 0; i < num_arguments; ++i) {
      const std::optional<std::string_view> argument = take_argument(behind);
      if (!argument) return text;
      // An argument may hold the command again.
      out += "{" + with_braces(std::string(*argument), command, num_arguments) + "}";
    }
    rest = behind;
  }
  return out += rest;
}

/// What TeX reads as arguments, in braces.
std::string with_all_braces(std::string text) {
  text = with_braces(with_braces(text, "\\sqrt", 1), "\\frac", 2);
  return with_braces(text, "\\binom", 2);
}

std::string fix_malformed(std::string text) {
  static const std::vector<Rule> kRules = [] {
    std::vector<Rule> rules;
    rules.push_back({Pattern(R"(\^\s?(\(((?:[^()]|(?1))*)\)))"), "^{$2}"});
    rules.push_back({Pattern(R"(\\?sqrt\s?(\(((?:[^()]|(?1))*)\)))"), R"(\\sqrt{$2})"});
    rules.push_back({Pattern(R"(\\frac\s?(\d)\s?(\d+))"), R"(\\frac{$1}{$2})"});
    rules.push_back({Pattern(R"(\\binom\s?(\d)\s?(\d))"), R"(\\binom{$1}{$2})"});
    rules.push_back({Pattern(R"(\\log_\s?(\d)\s?(\d+))"), R"(\\log_{$1}{$2})"});
    rules.push_back({Pattern(R"(\\frac\s?{(.*?)}\s?(\d))"), R"(\\frac{$1}{$2})"});
    rules.push_back({Pattern(R"(\\frac\s?(\d)\s?{(.*?)})"), R"(\\frac{$1}{$2})"});
    rules.push_back({Pattern(R"(\\sqrt\s?(\d))"), R"(\\sqrt{$1})"});
    rules.push_back({Pattern(" sqrt"), R"(\\sqrt)"});
    return rules;
  }();
  static const Pattern kSimpleFraction(R"(^(0|-?[1-9]\d*)/(0|-?[1-9]\d*)$)");
  text = with_all_braces(apply(kRules, std::move(text)));
  return kSimpleFraction.replace_all(text, R"(\\frac{$1}{$2})");
}

}  // namespace

std::string boxed_content(std::string_view text, BoxedMode mode) {
  std::vector<std::string> contents;  // from right to left
  size_t limit = text.size();
  std::optional<size_t> next_box;
  for (;;) {
    const std::string_view before = text.substr(0, limit);
    const size_t boxed = before.rfind("\\boxed"), fbox = before.rfind("\\fbox");
    if (boxed == before.npos && fbox == before.npos) break;
    const bool is_boxed = fbox == before.npos || (boxed != before.npos && boxed > fbox);
    const size_t start = is_boxed ? boxed : fbox;
    size_t open = start + (is_boxed ? 6 : 5);
    while (open < limit && text[open] == ' ') ++open;
    if (open >= limit) break;
    const std::optional<size_t> close =
        text[open] == '{' ? closing_brace(text, open, limit) : std::nullopt;
    if (!close) {
      if (contents.empty()) contents.emplace_back(text.substr(open));
      break;
    }
    const std::string content(trimmed(text.substr(open + 1, *close - open - 1)));
    const bool is_repeated = !contents.empty() && contents.back() == content;
    if (mode == BoxedMode::kLast && next_box &&
        !belongs_to_next(text.substr(*close + 1, *next_box - *close - 1), is_repeated))
      break;
    if (!is_repeated) contents.push_back(content);
    next_box = start;
    limit = start;
  }
  if (contents.empty()) return std::string(text);
  std::string joined;
  for (auto content = contents.rbegin(); content != contents.rend(); ++content)
    joined += (joined.empty() && content == contents.rbegin() ? "" : ",") + *content;
  return joined;
}

std::string last_of_chain(const std::string& text) {
  static const Pattern kEquals(R"((?<!\\|<|!|>)=)");
  if (text.find_first_of(",;") != text.npos) return text;
  const std::vector<PatternMatch> signs = kEquals.find_all(text);
  return signs.size() < 2 ? text : text.substr(signs.back().end);
}

std::string normalize_latex(std::string_view latex, const NormalizeOptions& options) {
  const std::string content =
      options.boxed == BoxedMode::kKeep ? std::string(latex) : boxed_content(latex, options.boxed);
  if (content.size() > kLongestFormula) return content;
  std::string text = normalize_basics(content);
  if (options.last_equation) text = last_of_chain(text);
  text = remove_units(std::move(text));
  if (options.fix_malformed) {
    if (text.starts_with('.')) text = "0" + text;
    if (text == "0.5") text = "\\frac{1}{2}";
    text = fix_malformed(std::move(text));
  }
  return std::string(trimmed(text));
}

}  // namespace lockstep::reward
