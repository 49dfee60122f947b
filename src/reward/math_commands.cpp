// What a command or a bracket begins.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <utility>

#include "reward/math_grammar.h"
#include "reward/math_parser.h"
#include "text/jinja/string.h"

namespace lockstep::reward {
namespace {

using Method = MathPtr (MathGrammar::*)();

template <class Names>
bool is_one_of(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

constexpr std::array<std::string_view, 20> kFunctions = {
    "sin",  "cos",  "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh",
    "cosh", "tanh", "exp", "log", "ln",  "lg",  "tg",     "ctg",    "arctg",  "cosec"};

/// Functions of a list of arguments.
constexpr std::array<std::string_view, 6> kOfLists = {"max", "min", "gcd", "lcm", "det", "sgn"};

bool is_function_name(std::string_view name) { return is_one_of(kFunctions, name); }

/// Other names of a function.
std::string canonical_function(const std::string& name) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 5> kSynonyms = {
      {{"tg", "tan"}, {"ctg", "cot"}, {"arctg", "arctan"}, {"cosec", "csc"}, {"sgn", "sign"}}};
  for (const auto& [synonym, function] : kSynonyms) {
    if (synonym == name) return std::string(function);
  }
  return name;
}

/// A name that hides digits would hide a value: the overline of digits is a period.
MathPtr accented(const std::string& name, const std::string& inside) {
  if (inside.find_first_of("0123456789") != inside.npos) throw NotUnderstood{};
  return make_math(MathKind::kSymbol, {}, name + "{" + inside + "}");
}

constexpr std::array<std::string_view, 20> kBelowTwenty = {
    "zero",     "one",     "two",     "three",     "four",     "five",    "six",
    "seven",    "eight",   "nine",    "ten",       "eleven",   "twelve",  "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"};
constexpr std::array<std::string_view, 8> kTens = {"twenty", "thirty",  "forty",  "fifty",
                                                   "sixty",  "seventy", "eighty", "ninety"};
constexpr std::array<std::pair<std::string_view, int64_t>, 3> kScales = {
    {{"million", 1'000'000}, {"thousand", 1'000}, {"hundred", 100}}};

/// 321 is "three hundred twenty one".
std::string words_of(int64_t number) {
  const auto with_rest = [](std::string words, int64_t rest) {
    return rest == 0 ? words : words + " " + words_of(rest);
  };
  for (const auto& [name, scale] : kScales) {
    if (number >= scale)
      return with_rest(words_of(number / scale) + " " + std::string(name), number % scale);
  }
  if (number < 20) return std::string(kBelowTwenty[static_cast<size_t>(number)]);
  return with_rest(std::string(kTens[static_cast<size_t>(number / 10 - 2)]), number % 10);
}

/// "twenty-one" is 21, "three hundred and five" is 305; nothing for other words and from 10^9 on.
/// `lower` is in small letters.
std::optional<int64_t> number_in_words(std::string_view lower) {
  constexpr size_t kLongest = 100;
  constexpr int64_t kEnd = 1'000'000'000;
  if (lower.size() > kLongest) return std::nullopt;
  std::string written;        // without hyphens and "and"
  int64_t sum = 0, part = 0;  // of the thousands and millions; of what stands behind them
  for (const std::string& word :
       text::jinja::split(text::jinja::replace(lower, "-", " ", -1), std::nullopt, -1)) {
    if (word == "and") continue;
    written += (written.empty() ? "" : " ") + word;
    const auto* small = std::find(kBelowTwenty.begin(), kBelowTwenty.end(), word);
    const auto* ten = std::find(kTens.begin(), kTens.end(), word);
    if (small != kBelowTwenty.end()) part += small - kBelowTwenty.begin();
    if (ten != kTens.end()) part += 10 * (ten - kTens.begin() + 2);
    if (word == "hundred") part *= 100;
    if (word == "thousand") sum += std::exchange(part, 0) * 1'000;
    if (word == "million") sum += std::exchange(part, 0) * 1'000'000;
    if (part + sum >= kEnd) return std::nullopt;
  }
  // Words in any other order, and those that name no number, would be written otherwise.
  return written == words_of(part + sum) ? std::optional(part + sum) : std::nullopt;
}

bool is_minus_one(const MathPtr& value) { return value->is_number() && *value->number == -1; }

}  // namespace

MathPtr parse_word(std::string_view text) {
  static constexpr std::array<std::string_view, 13> kReals = {
      "allrealnumbers",      "allreals",      "realnumbers",   "thesetofallrealnumbers",
      "thesetofrealnumbers", "allrealnumber", "allrealvalues", "anyrealnumber",
      "everyrealnumber",     "allofthereals", "allrealx",      "anyrealx",
      "therealnumbers"};
  const std::string lower = text::jinja::to_lower(text::jinja::strip(text));
  if (const std::optional<int64_t> number = number_in_words(lower)) return make_integer(*number);
  std::string word;
  std::copy_if(lower.begin(), lower.end(), std::back_inserter(word),
               [](char c) { return c != ' '; });
  if (word.size() > 2 && word.front() == '(' && word.back() == ')')
    word = word.substr(1, word.size() - 2);
  if (word.empty()) return nullptr;
  if (is_one_of(kReals, word)) return make_reals();
  if (word == "pi") return make_math(MathKind::kPi);
  if (word == "infinity" || word == "positiveinfinity") return make_math(MathKind::kInfinity);
  if (word == "negativeinfinity" || word == "minusinfinity")
    return negate(make_math(MathKind::kInfinity));
  return make_math(MathKind::kSymbol, {}, word);
}

MathPtr MathGrammar::parse_command() {
  static constexpr std::array<std::pair<std::string_view, Method>, 8> kMethods = {
      {{"frac", &MathGrammar::parse_fraction},
       {"sqrt", &MathGrammar::parse_root},
       {"surd", &MathGrammar::parse_surd},
       {"boxed", &MathGrammar::parse_group},
       {"fbox", &MathGrammar::parse_group},
       {"{", &MathGrammar::parse_set},
       {"langle", &MathGrammar::parse_vector},
       {"begin", &MathGrammar::parse_environment}}};
  const std::string name = take().text;
  for (const auto& [command, method] : kMethods) {
    if (command == name) return (this->*method)();
  }
  if (name == "pi") return make_math(MathKind::kPi);
  if (name == "infty") return make_math(MathKind::kInfinity);
  if (name == "emptyset" || name == "varnothing") return make_math(MathKind::kSet);
  if (name == "binom") {
    const MathPtr from = parse_group(), chosen = parse_group();
    return make_function("binomial", {from, chosen});
  }
  if (name == "lfloor") return parse_enclosed("rfloor", "floor");
  if (name == "lceil") return parse_enclosed("rceil", "ceil");
  if (name == "sum" || name == "prod") return parse_repeated(name);
  if (name == "operatorname") return parse_function_or_symbol(raw_group());
  return parse_text_command(name);
}

/// Commands around a text or a name.
MathPtr MathGrammar::parse_text_command(const std::string& name) {
  static constexpr std::array<std::string_view, 4> kText = {"text", "mbox", "textbf", "textsf"};
  static constexpr std::array<std::string_view, 5> kFonts = {"boldsymbol", "bm", "mathsf",
                                                             "underline", "mathcal"};
  static constexpr std::array<std::string_view, 9> kAccents = {
      "vec", "overrightarrow", "hat", "widehat", "tilde", "widetilde", "dot", "overset", "mathscr"};
  if (is_one_of(kText, name)) {
    const MathPtr word = parse_word(raw_group());
    if (!word) throw NotUnderstood{};
    return word;
  }
  if (name == "mathbb" || name == "Bbb")
    return parse_number_set(is_symbol("{") ? raw_group() : text::jinja::to_lower(take().text));
  static constexpr std::array<std::string_view, 5> kNumberSets = {"R", "N", "Z", "Q", "C"};
  if (is_one_of(kNumberSets, name)) return parse_number_set(text::jinja::to_lower(name));
  if (name == "overline" || name == "bar") return accented("bar", raw_group());
  if (is_one_of(kAccents, name))
    return accented(name, is_symbol("{") ? raw_group() : text::jinja::to_lower(take().text));
  if (is_one_of(kFonts, name)) return parse_group_or_one();
  return parse_function_or_symbol(name);
}

/// ℝ, also with a sign that takes its positive or negative half; others are names.
MathPtr MathGrammar::parse_number_set(const std::string& letter) {
  if (letter != "r") return make_math(MathKind::kSymbol, {}, "mathbb{" + letter + "}");
  const size_t begin = at_;
  if (take_symbol("^") || take_symbol("_")) {
    const std::string sign = is_symbol("{") ? raw_group() : take().text;
    const MathPtr zero = make_integer(0), infinity = make_math(MathKind::kInfinity);
    const auto is_any_of = [&](std::initializer_list<std::string_view> names) {
      return std::find(names.begin(), names.end(), sign) != names.end();
    };
    if (is_any_of({"+", ">0"})) return make_interval(zero, infinity, true, true);
    if (is_any_of({"-", "<0"})) return make_interval(negate(infinity), zero, true, true);
    if (is_any_of({"\\ge0", "\\geq0", "\\geqslant0", ">=0"}))
      return make_interval(zero, infinity, false, true);
    if (is_any_of({"\\le0", "\\leq0", "\\leqslant0", "<=0"}))
      return make_interval(negate(infinity), zero, true, false);
    at_ = begin;
  }
  return make_reals();
}

MathPtr MathGrammar::parse_fraction() {
  const MathPtr above = parse_group(), below = parse_group();
  const bool is_literal = above->is_number() && below->is_number() && !above->decimal_places;
  if (is_literal && *below->number != 0) return make_number(*above->number / *below->number);
  return make_math(MathKind::kMultiply, {above, reciprocal(below)});
}

MathPtr MathGrammar::parse_root() {
  MathPtr degree = make_integer(2);
  if (take_symbol("[")) {
    degree = parse_sum();
    expect_symbol("]");
  }
  const MathPtr inside = parse_group();
  const bool is_literal = degree->is_number() && *degree->number != 0;
  return make_math(MathKind::kPower,
                   {inside, is_literal ? make_number(1 / *degree->number) : reciprocal(degree)});
}

/// A root without braces: √3, √(x+1), sqrt(2), ∛27.
MathPtr MathGrammar::parse_surd() {
  if (is_symbol("{")) return parse_root();
  MathPtr degree = make_integer(2);
  if (take_symbol("[")) {
    degree = parse_number();
    expect_symbol("]");
  }
  return make_math(MathKind::kPower, {parse_primary(), reciprocal(degree)});
}

MathPtr MathGrammar::parse_enclosed(std::string_view closing, std::string name) {
  const MathPtr inside = parse_sum();
  if (!take_command(closing)) throw NotUnderstood{};
  return make_function(std::move(name), {inside});
}

MathPtr MathGrammar::parse_function_or_symbol(const std::string& name) {
  static constexpr std::array<std::string_view, 34> kLetters = {
      "alpha", "beta",  "gamma", "delta",    "epsilon", "varepsilon", "zeta",
      "eta",   "theta", "iota",  "kappa",    "lambda",  "mu",         "nu",
      "xi",    "rho",   "sigma", "tau",      "upsilon", "phi",        "varphi",
      "chi",   "psi",   "omega", "ell",      "angle",   "vartheta",   "imath",
      "hbar",  "nabla", "top",   "triangle", "square",  "partial"};
  if (is_function_name(name)) return parse_function(canonical_function(name));
  if (is_one_of(kOfLists, name)) return parse_list_function(canonical_function(name));
  const std::string small = text::jinja::to_lower(name);
  if (!is_one_of(kLetters, small)) throw NotUnderstood{};
  return is_symbol("_") ? parse_subscript(small) : make_math(MathKind::kSymbol, {}, small);
}

MathPtr MathGrammar::parse_function(const std::string& name) {
  const bool is_log = name == "log" || name == "ln" || name == "lg";
  MathPtr base, exponent;
  if (is_log && take_symbol("_")) base = parse_group_or_one();
  if (is_log && name != "ln" && !base) base = make_integer(10);
  if (take_symbol("^")) exponent = parse_group_or_one();
  const bool is_inverse =
      exponent && is_minus_one(exponent) && (name == "sin" || name == "cos" || name == "tan");
  std::vector<MathPtr> arguments = {parse_argument()};
  if (base) arguments.push_back(base);
  MathPtr value = make_function(is_inverse ? "arc" + name
                                : is_log   ? "log"
                                           : name,
                                std::move(arguments));
  return exponent && !is_inverse ? make_math(MathKind::kPower, {value, exponent}) : value;
}

/// What stands in brackets, or else all factors up to the next function: \sin 2x \cos x. A power
/// behind parentheses is one of the function's value, behind braces, which are not seen, of the
/// argument.
MathPtr MathGrammar::parse_argument() {
  const Depth depth(*this);
  if (take_symbol("-")) return negate(parse_argument());
  if (is_symbol("(")) return parse_primary();
  if (is_symbol("{")) return parse_postfix();
  const bool begins_with_number = current().kind == TokenKind::kNumber;
  std::vector<MathPtr> factors = {parse_postfix()};
  if (begins_with_number && factors[0]->is_number()) factors[0] = mixed_number(factors[0]);
  while (starts_factor() &&
         !(current().kind == TokenKind::kCommand && is_function_name(current().text)))
    factors.push_back(parse_postfix());
  return factors.size() == 1 ? factors[0] : make_math(MathKind::kMultiply, std::move(factors));
}

/// \max(a, b), \gcd\{a, b\}, \det A.
MathPtr MathGrammar::parse_list_function(const std::string& name) {
  const MathPtr arguments = parse_primary();
  const bool is_list = arguments->kind == MathKind::kInterval ||
                       arguments->kind == MathKind::kTuple || arguments->kind == MathKind::kSet;
  return make_function(name, is_list ? arguments->children : std::vector<MathPtr>{arguments});
}

/// \sum_{k=1}^{n} …: body, variable, first, last.
MathPtr MathGrammar::parse_repeated(const std::string& name) {
  expect_symbol("_");
  const MathPtr start = parse_group();
  expect_symbol("^");
  const MathPtr last = parse_group_or_one();
  const bool is_start = start->kind == MathKind::kRelation && start->children.size() == 2 &&
                        start->operators[0] == "=" && start->children[0]->kind == MathKind::kSymbol;
  if (!is_start) throw NotUnderstood{};
  const MathPtr body = parse_product();
  return make_function(name, {body, start->children[0], start->children[1], last});
}

MathPtr MathGrammar::parse_set() {
  std::vector<MathPtr> items;
  const bool colon_separates = std::exchange(colon_separates_, true);
  const bool bar_closes = std::exchange(bar_closes_, true);
  while (!is_command("}")) {
    if (!items.empty() && !take_separator()) throw NotUnderstood{};
    items.push_back(parse_relation());
    const bool has_conditions =
        items.size() == 1 && (take_command("mid") || take_symbol("|") || take_symbol(":"));
    if (has_conditions) items[0] = parse_set_conditions(items[0]);
    if (has_conditions && !is_command("}")) throw NotUnderstood{};
    if (has_conditions) break;
  }
  take();
  colon_separates_ = colon_separates;
  bar_closes_ = bar_closes;
  const bool has_conditions = items.size() == 1 && items[0]->kind == MathKind::kIntersection;
  return has_conditions ? items[0] : make_math(MathKind::kSet, std::move(items));
}

/// x | x > 2, x < 5: the numbers that satisfy all conditions.
MathPtr MathGrammar::parse_set_conditions(MathPtr element) {
  std::vector<MathPtr> conditions;
  if (element->kind == MathKind::kRelation) conditions.push_back(std::move(element));
  do {
    conditions.push_back(parse_relation());
  } while (take_separator() || take_command("land") || take_command("wedge"));
  return make_math(MathKind::kIntersection, std::move(conditions));
}

/// \langle 1, 2 \rangle
MathPtr MathGrammar::parse_vector() {
  std::vector<MathPtr> items;
  do {
    items.push_back(parse_sum());
  } while (take_symbol(","));
  if (!take_command("rangle")) throw NotUnderstood{};
  return make_math(MathKind::kTuple, std::move(items));
}

MathPtr MathGrammar::parse_environment() {
  const std::string kind = raw_group();
  if (kind.ends_with("matrix") || kind == "array") return parse_matrix(kind);
  static constexpr std::array<std::string_view, 5> kRows = {"cases", "aligned", "align", "align*",
                                                            "gathered"};
  if (!is_one_of(kRows, kind)) throw NotUnderstood{};
  return parse_rows(kind);
}

/// A \\ between rows, with a distance behind it. False at the end, also behind a last \\.
bool MathGrammar::take_row_end() {
  if (!take_command("\\")) return false;
  if (take_symbol("[")) {
    while (!take_symbol("]")) {
      if (current().kind == TokenKind::kEnd) throw NotUnderstood{};
      take();
    }
  }
  take_command("hline");
  return !is_command("end");
}

/// Equations below one another, as a list.
MathPtr MathGrammar::parse_rows(const std::string& kind) {
  // What is aligned does not matter.
  const auto is_mark = [](const Token& token) { return token.text == "&"; };
  tokens_.erase(
      std::remove_if(tokens_.begin() + static_cast<ptrdiff_t>(at_), tokens_.end(), is_mark),
      tokens_.end());
  std::vector<MathPtr> rows;
  do {
    rows.push_back(parse_list());
    take_symbol(",");
  } while (take_row_end());
  if (!take_command("end") || raw_group() != kind) throw NotUnderstood{};
  return rows.size() == 1 ? rows[0] : make_math(MathKind::kSet, std::move(rows));
}

/// \begin{pmatrix} a & b \\ c & d \end{pmatrix}; between bars it is a determinant.
MathPtr MathGrammar::parse_matrix(const std::string& kind) {
  if (kind == "array") raw_group();
  std::vector<MathPtr> items;
  size_t num_rows = 0, num_columns = 0;
  do {
    do {
      items.push_back(parse_sum());
    } while (take_symbol("&"));
    if (++num_rows == 1) num_columns = items.size();
    if (items.size() != num_rows * num_columns) throw NotUnderstood{};
  } while (take_row_end());
  if (!take_command("end") || raw_group() != kind) throw NotUnderstood{};
  MathPtr matrix = make_math(MathKind::kMatrix, std::move(items), std::to_string(num_rows));
  return kind == "vmatrix" ? make_function("det", {matrix}) : matrix;
}

/// |…|
MathPtr MathGrammar::parse_bars() {
  const bool bar_closes = std::exchange(bar_closes_, true);
  const MathPtr inside = parse_sum();
  bar_closes_ = bar_closes;
  expect_symbol("|");
  return make_function("abs", {inside});
}

/// (…), […], {…}, |…|: grouping, a tuple or an interval.
MathPtr MathGrammar::parse_bracket() {
  if (is_symbol("{")) return parse_group();
  const std::string open = take().text;
  if (open == "|") return parse_bars();
  if (open != "(" && open != "[") throw NotUnderstood{};
  const bool bar_closes = std::exchange(bar_closes_, false);
  const bool colon_separates = std::exchange(colon_separates_, false);
  std::vector<MathPtr> items = {parse_relation()};
  while (take_symbol(",") || take_symbol(";")) items.push_back(parse_relation());
  bar_closes_ = bar_closes;
  colon_separates_ = colon_separates;
  const bool is_right_open = is_symbol(")");
  if (!is_right_open && !is_symbol("]")) throw NotUnderstood{};
  take();
  if (items.size() == 1) return items[0];
  if (items.size() > 2) return make_math(MathKind::kTuple, std::move(items));
  return make_interval(items[0], items[1], open == "(", is_right_open);
}

}  // namespace lockstep::reward
