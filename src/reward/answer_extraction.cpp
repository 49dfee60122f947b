// math_verify's patterns and their priorities.
// SPDX-License-Identifier: Apache-2.0
#include "reward/answer_extraction.h"

#include <algorithm>

#include "reward/latex_normalize.h"
#include "reward/pattern.h"

namespace lockstep::reward {
namespace {

constexpr int kMaxJoined = 6;  // formulas in one answer

/// A formula in one of LaTeX's environments; group names begin with `prefix`.
std::string latex_environment(const std::string& prefix, bool is_boxed) {
  const auto content = [&](const std::string& one) {
    return is_boxed ? one + R"(*?\\boxed{)" + one + "+?}" + one + "*?" : one + "+?";
  };
  const auto group = [&](const std::string& name, const std::string& inside) {
    return "(?P<" + prefix + name + ">" + inside + ")";
  };
  std::string result =
      R"((?:(?:(?<!\\)\$\$)" + group("DisplayDollar", content(R"((?:[^$]|\$(?!\$)))")) +
      R"((?<!\\)\$\$|(?<!\\)\\\[)" + group("DisplayBracket", content(R"((?:[^\\]|\\(?!\])))")) +
      R"((?<!\\)\\\]|(?<!\\|\d)\$)" + group("InlineDollar", content(R"((?:\\[$]|[^\n$]))")) +
      R"((?<!\\)\$|(?<!\\)\\\()" + group("InlineParenthesis", content(R"((?:[^\\\n]|\\(?!\))))")) +
      R"((?<!\\)\\\)|\s\[)" + group("InlineBracket", content(R"([^\n\]\[])")) + R"(\]\s)";
  if (!is_boxed) {
    const std::string number = R"(-?\d+(?:[.,]\d+)?)";
    result += "|" + group("Fraction", R"(-?\\frac{)" + number + "}{" + number + "}");
  }
  return result + R"()\s*(?P<)" + prefix + R"(percent>(?:\\?%|[Pp]ercent|[Pp]ercentage|[Pp]ct))?))";
}

/// Up to six formulas joined by "and", "or" or commas.
std::string joined_environments(bool is_boxed) {
  std::string result = latex_environment("p0", is_boxed);
  for (int i = 1; i < kMaxJoined; ++i) {
    result += std::string(is_boxed ? R"(\s*)" : "") + R"((?:\s*(?:,?and|,?or|,)\s*)" +
              latex_environment("p" + std::to_string(i), is_boxed) + ")?";
  }
  return "(?:" + result + ")";
}

std::string plain_number() {
  return R"((?<!\d)(?:(?P<integer1>-?[1-9]\d{0,2}(?:[ ,]\d{3})+)(?P<decimal1>\.\d+)?|)"
         R"((?P<integer2>-?\d+)(?P<decimal2>[.,]\d+)|(?P<decimal3>\.\d+)|(?P<integer3>-?\d+)))"
         R"((?P<percent>\s*(?:%|[Pp]ercent|\s*[Pp]ercentage|\s*[Pp]ct))?)";
}

constexpr std::string_view kExpressionPrefix = R"((?:^|\s|\=)(?:\*\*)?)";

std::string anchored_expression() {
  const std::string operators = R"(\+\-\*\×\/\^\(\)\÷)";
  const std::string any = R"([\d\.\s)" + operators + "]";
  return "(?:" + std::string(kExpressionPrefix) + R"((?P<expr>-?\(?-?\d)" + any + "*[" + operators +
         "]" + any + R"(+\)?)(?:\*\*)?(?:\.|,|:|\s|\)|\$|$)))";
}

std::string anchored_number() {
  const std::string currencies =
      R"(\$€£¥₹₽₪₩₫฿₡₢₣₤₥₦₧₨₭₮₯₰₱₲₳₴₵₶₷₸₺₻₼₾₿)";
  return "(?:" + std::string(kExpressionPrefix) + "[" + currencies + "]?" + plain_number() + ")";
}

struct Source {
  Pattern pattern;
  int priority;
  bool is_latex;
};

/// Patterns in the order in which they are tried among equal priorities.
using Sources = std::vector<Source>;

void add_latex(Sources& sources, int boxed_priority, bool with_unanchored) {
  const auto add = [&](const std::string& expression, int priority) {
    sources.push_back(
        {Pattern(expression, {.dot_all = true, .counts_steps = true}), priority, true});
  };
  const std::string formula = joined_environments(/*is_boxed=*/false);
  add(R"((?i:final answer is)\:?\s*)" + formula + R"(\.?\s?I hope)", 0);
  add(R"((?i:final answer.{0,100}?)\s+is\:?\s*)" + formula, 50);
  add("(?i:answer):.{0,50}?" + formula, 100);
  add("(?i:answer).{0,50}?" + formula, 200);
  if (with_unanchored) add(formula, 300);
  add(joined_environments(/*is_boxed=*/true), boxed_priority);
  add(R"((?P<boxed>\\boxed{.+}))", boxed_priority);
}

void add_plain(Sources& sources) {
  const auto add = [&](const std::string& expression, int priority) {
    sources.push_back({Pattern(expression, {.counts_steps = true}), priority, false});
  };
  const std::string expression = anchored_expression(), number = anchored_number();
  const std::string either = "(?:" + expression + "|" + number + ")";
  add(R"((?i:final answer is)\:?\s*)" + either + R"(\.?\s?I hope)", 0);
  add(R"((?i:final answer.{0,100}?)\s+is\:?)" + either, 50);
  add(R"((?i:answer):(?:.{0,100}=\s*|.{0,50}?))" + either + R"((?!\s*=))", 100);
  add(R"((?i:answer)(?:.{0,100}=\s*|.{0,50}?))" + either + R"((?!\s*=))", 200);
  add(expression, 300);
  add(number, 300);
}

Sources by_priority(Sources sources) {
  std::vector<size_t> order(sources.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t left, size_t right) {
    return sources[left].priority < sources[right].priority;
  });
  Sources sorted;
  for (const size_t i : order) sorted.push_back(std::move(sources[i]));
  return sorted;
}

const Sources& sources_for(AnswerPlaces places) {
  static const Sources kAnywhere = [] {
    Sources sources;
    add_latex(sources, /*boxed_priority=*/50, /*with_unanchored=*/true);
    add_plain(sources);
    return by_priority(std::move(sources));
  }();
  static const Sources kAnchored = [] {
    Sources sources;
    add_latex(sources, /*boxed_priority=*/0, /*with_unanchored=*/false);
    return by_priority(std::move(sources));
  }();
  return places == AnswerPlaces::kAnywhere ? kAnywhere : kAnchored;
}

std::string_view group_of(const Source& source,
                          const PatternMatch& match,
                          const std::string& name) {
  const size_t index = source.pattern.group_index(name);
  return index == 0 ? std::string_view() : match.groups[index];
}

ExtractedAnswer latex_answer(const Source& source, const PatternMatch& match, AnswerPlaces places) {
  ExtractedAnswer answer;
  answer.is_latex = true;
  NormalizeOptions options;
  options.fix_malformed = places == AnswerPlaces::kAnywhere;
  options.last_equation = places == AnswerPlaces::kAnchoredLatex;
  // The stricter configuration asks for boxed=True, which normalize_latex does not know: it keeps
  // the box, and the parser reads through it.
  options.boxed = places == AnswerPlaces::kAnywhere ? BoxedMode::kAll : BoxedMode::kKeep;
  const std::string_view boxed = group_of(source, match, "boxed");
  if (!boxed.empty()) {
    options.boxed = BoxedMode::kLast;
    answer.source = boxed_content(boxed, BoxedMode::kLast);
    answer.pieces.push_back({normalize_latex(boxed, options), false});
  }
  for (int i = 0; i < kMaxJoined; ++i) {
    const std::string prefix = "p" + std::to_string(i);
    for (const char* name : {"DisplayDollar", "DisplayBracket", "InlineDollar", "InlineParenthesis",
                             "InlineBracket", "Fraction"}) {
      const std::string_view latex = group_of(source, match, prefix + name);
      if (latex.empty()) continue;
      const bool is_percent = !group_of(source, match, prefix + "percent").empty();
      answer.source += (answer.source.empty() ? "" : ",") + std::string(latex);
      if (is_percent) answer.source += "%";
      answer.pieces.push_back({normalize_latex(latex, options), is_percent});
      break;
    }
  }
  for (const AnswerPiece& piece : answer.pieces)
    answer.text += (&piece == answer.pieces.data() ? "" : " and ") + piece.text;
  return answer;
}

ExtractedAnswer plain_answer(const Source& source, const PatternMatch& match) {
  const auto first_of = [&](std::initializer_list<const char*> names) {
    for (const char* name : names) {
      const std::string_view text = group_of(source, match, name);
      if (!text.empty()) return std::string(text);
    }
    return std::string();
  };
  std::string integer = first_of({"integer1", "integer2", "integer3"});
  std::string decimal = first_of({"decimal1", "decimal2", "decimal3"});
  ExtractedAnswer answer;
  if (integer.empty() && decimal.empty()) {
    answer.text = std::string(group_of(source, match, "expr"));
    answer.pieces.push_back({answer.text, false});
    return answer;
  }
  std::erase_if(integer, [](char c) { return c == ',' || c == ' '; });
  integer.erase(0, integer.find_first_not_of('0'));  // all of it where there is nothing else
  if (integer.empty()) integer = "0";
  std::replace(decimal.begin(), decimal.end(), ',', '.');
  answer.text = integer + decimal;
  answer.pieces.push_back({answer.text, !group_of(source, match, "percent").empty()});
  return answer;
}

}  // namespace

std::optional<ExtractedAnswer> extract_answer(std::string_view text,
                                              AnswerPlaces places,
                                              WorkBudget& work) {
  struct Found {
    const Source* source;
    PatternMatch match;
  };
  const Sources& sources = sources_for(places);
  std::optional<Found> best;
  for (size_t i = 0; i < sources.size(); ++i) {
    if (best && sources[i].priority != best->source->priority) break;
    for (PatternMatch& match : sources[i].pattern.find_all(text, work)) {
      // The one that ends last, among those the one that begins first, among those the first
      // pattern's.
      const bool is_better = !best || match.end > best->match.end ||
                             (match.end == best->match.end && match.begin < best->match.begin);
      if (is_better) best = Found{&sources[i], std::move(match)};
    }
  }
  if (!best) return std::nullopt;
  if (best->source->is_latex) return latex_answer(*best->source, best->match, places);
  ExtractedAnswer answer = plain_answer(*best->source, best->match);
  constexpr std::string_view kAround = " \t\r\n.$";
  answer.is_all = text.find_first_not_of(kAround) >= best->match.begin &&
                  text.find_last_not_of(kAround) < best->match.end;
  return answer;
}

}  // namespace lockstep::reward
