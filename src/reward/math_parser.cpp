// What stands between operators, from lists down to single letters.
// SPDX-License-Identifier: Apache-2.0
#include "reward/math_parser.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "reward/math_grammar.h"
#include "reward/unicode_math.h"
#include "text/jinja/string.h"

namespace lockstep::reward {
namespace {

std::string lower(std::string_view text) { return text::jinja::to_lower(text); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string without_spaces(std::string_view text) {
  std::string out;
  std::copy_if(text.begin(), text.end(), std::back_inserter(out), [](char c) { return c != ' '; });
  return lower(out);
}

/// left ± right, or right ± left of nothing.
MathPtr alternatives(const MathPtr& left, const MathPtr& right) {
  const auto sum = [&](const MathPtr& part) {
    return left ? make_math(MathKind::kAdd, {left, part}) : part;
  };
  return make_math(MathKind::kAlternatives, {sum(negate(right)), sum(right)});
}

/// "0.1(6)" is a tenth of 1 + 6/9.
MathPtr repeating_number(const std::string& text) {
  const size_t open = text.find('('), point = text.find('.');
  const MathPtr start = parse_number(text.substr(0, open) + (open == point + 1 ? "0" : ""));
  const std::string period = text.substr(open + 1, text.size() - open - 2);
  const MathPtr digits = parse_number(period);
  if (!start || !digits) throw NotUnderstood{};
  Integer scale, nines;
  mpz_ui_pow_ui(scale.get_mpz_t(), 10, open - point - 1);
  mpz_ui_pow_ui(nines.get_mpz_t(), 10, period.size());
  return make_number(*start->number + *digits->number / Rational(scale * (nines - 1)));
}

}  // namespace

MathGrammar::Depth::Depth(MathGrammar& grammar) : grammar_(grammar) {
  constexpr int kDeepest = 200;
  if (grammar_.depth_ == kDeepest) throw NotUnderstood{};
  ++grammar_.depth_;
}

bool MathGrammar::is_symbol(std::string_view text) const {
  return current().kind == TokenKind::kSymbol && current().text == text;
}
bool MathGrammar::is_command(std::string_view name) const {
  return current().kind == TokenKind::kCommand && current().text == name;
}
Token MathGrammar::take() {
  const Token token = current();
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}
bool MathGrammar::take_symbol(std::string_view text) { return is_symbol(text) && (take(), true); }
bool MathGrammar::take_command(std::string_view name) { return is_command(name) && (take(), true); }
bool MathGrammar::begins_sign(std::string_view text) const {
  return is_symbol(text) && next().text == "=" && next().begin == current().end;
}
void MathGrammar::expect_symbol(std::string_view text) {
  if (!take_symbol(text)) throw NotUnderstood{};
}

MathPtr MathGrammar::parse() {
  MathPtr result = parse_list();
  if (current().kind != TokenKind::kEnd) throw NotUnderstood{};
  return result;
}

bool MathGrammar::take_separator() {
  return take_symbol(",") || take_symbol(";") || take_command("lor") || take_command("vee");
}

/// a, b, c: a set without order; "x = 1, 2" gives x both values.
MathPtr MathGrammar::parse_list() {
  std::vector<MathPtr> items;
  do {
    items.push_back(parse_relation());
  } while (take_separator());
  if (items.size() == 1) return items[0];
  const auto is_relation = [](const MathPtr& item) { return item->kind == MathKind::kRelation; };
  if (is_relation(items[0]) && std::none_of(items.begin() + 1, items.end(), is_relation)) {
    auto relation = std::make_shared<Math>(*items[0]);
    items[0] = relation->children.back();
    relation->children.back() = make_math(MathKind::kSet, std::move(items));
    return relation;
  }
  return make_math(MathKind::kSet, std::move(items));
}

std::optional<std::string> MathGrammar::take_relation_sign() {
  static const std::unordered_map<std::string_view, std::string_view> kCommands = {
      {"le", "<="},          {"leq", "<="},          {"leqslant", "<="},
      {"leqq", "<="},        {"ge", ">="},           {"geq", ">="},
      {"geqslant", ">="},    {"geqq", ">="},         {"ngtr", "<="},
      {"nleq", ">"},         {"nless", ">="},        {"ngeq", "<"},
      {"ne", "!="},          {"neq", "!="},          {"in", "="},
      {"equiv", "="},        {"coloneqq", "="},      {"approx", "~"},
      {"approxeq", "~"},     {"doteq", "~"},         {"doteqdot", "~"},
      {"simeq", "~"},        {"thickapprox", "~"},   {"sim", "~"},
      {"risingdotseq", "~"}, {"fallingdotseq", "~"}, {"thicksim", "~"},
      {"notin", "notin"},    {"perp", "perp"},       {"parallel", "parallel"},
      {"cong", "cong"},      {"subset", "subset"},   {"subseteq", "subset"},
      {"propto", "propto"},  {"to", "to"},           {"rightarrow", "to"}};
  if (current().kind != TokenKind::kCommand) return take_written_sign();
  if (is_command("not")) {
    const Token sign = next();
    if (sign.text != "=" && sign.text != "in") return std::nullopt;
    take();
    take();
    return sign.text == "=" ? "!=" : "notin";
  }
  const auto found = kCommands.find(current().text);
  if (found == kCommands.end()) return std::nullopt;
  take();
  return std::string(found->second);
}

/// Signs of one or two characters.
std::optional<std::string> MathGrammar::take_written_sign() {
  static const std::unordered_map<std::string_view, std::string_view> kPairs = {
      {"<=", "<="}, {"=<", "<="}, {">=", ">="}, {"=>", ">="}, {"==", "="},
      {"!=", "!="}, {"<>", "!="}, {"/=", "!="}, {":=", "="},  {"~=", "~"}};
  if (current().kind != TokenKind::kSymbol) return std::nullopt;
  const bool is_pair = next().kind == TokenKind::kSymbol && next().begin == current().end;
  if (is_pair) {
    const auto found = kPairs.find(current().text + next().text);
    if (found != kPairs.end()) {
      take();
      take();
      return std::string(found->second);
    }
  }
  for (const std::string_view sign : {"=", "<", ">"}) {
    if (!take_symbol(sign)) continue;
    return std::string(sign);
  }
  return std::nullopt;
}

/// "(mod" and its writings in LaTeX begin here.
bool MathGrammar::begins_modulus() const {
  if (!is_symbol("(")) return false;
  const std::string_view rest =
      text::jinja::strip(text_.substr(current().end), text::jinja::Side::kLeft);
  return rest.starts_with("mod") || rest.starts_with("\\mod") || rest.starts_with("\\bmod") ||
         rest.starts_with("\\text{mod");
}

MathPtr MathGrammar::take_modulus() {
  if (take_command("pmod")) return parse_group_or_one();
  if (!begins_modulus()) return nullptr;
  take();
  if (take_command("text")) {
    raw_group();
  } else if (take().kind == TokenKind::kLetter) {
    take();
    take();
  }
  MathPtr modulus = parse_sum();
  expect_symbol(")");
  return modulus;
}

MathPtr MathGrammar::parse_relation() {
  const Depth depth(*this);
  auto relation = std::make_shared<Math>();
  relation->kind = MathKind::kRelation;
  const auto parse_side = [&] {
    MathPtr side = parse_set_operations();
    const MathPtr modulus = take_modulus();
    relation->children.push_back(modulus ? make_function("residue class", {side, modulus}) : side);
  };
  parse_side();
  while (const std::optional<std::string> sign = take_relation_sign()) {
    relation->operators.push_back(*sign);
    parse_side();
  }
  if (relation->operators.empty()) return relation->children[0];
  return relation;
}

MathPtr MathGrammar::parse_set_operations() {
  MathPtr left = parse_intersection();
  for (;;) {
    const bool is_letter = current().kind == TokenKind::kLetter && current().text == "U" &&
                           (next().text == "(" || next().text == "[");
    if (take_command("cup") || take_command("bigcup") || (is_letter && (take(), true))) {
      left = make_math(MathKind::kUnion, {left, parse_intersection()});
    } else if (take_command("setminus") || take_command("smallsetminus") ||
               take_command("backslash")) {
      left = make_math(MathKind::kDifference, {left, parse_intersection()});
    } else {
      return left;
    }
  }
}

MathPtr MathGrammar::parse_intersection() {
  std::vector<MathPtr> parts = {parse_sum()};
  while (take_command("cap")) parts.push_back(parse_sum());
  return parts.size() == 1 ? parts[0] : make_math(MathKind::kIntersection, std::move(parts));
}

MathPtr MathGrammar::parse_sum() {
  std::vector<MathPtr> terms;
  const auto take_plus_minus = [&] { return take_command("pm") || take_command("mp"); };
  // "+-3" is an ASCII writing of ±3 where nothing stands in front of it.
  const bool is_ascii = is_symbol("+") && next().text == "-" && next().begin == current().end;
  if (is_ascii) take();
  if (is_ascii ? take_symbol("-") : take_plus_minus())
    terms.push_back(alternatives(nullptr, parse_product()));
  else
    terms.push_back(parse_product());
  for (;;) {
    if (take_symbol("+")) {
      terms.push_back(parse_product());
    } else if (take_symbol("-")) {
      terms.push_back(negate(parse_product()));
    } else if (take_plus_minus()) {
      const MathPtr left = terms.size() == 1 ? terms[0] : make_math(MathKind::kAdd, terms);
      terms = {alternatives(left, parse_product())};
    } else {
      return terms.size() == 1 ? terms[0] : make_math(MathKind::kAdd, std::move(terms));
    }
  }
}

MathPtr MathGrammar::parse_product() {
  const Depth depth(*this);
  if (take_symbol("-")) return negate(parse_product());
  if (take_symbol("+")) return parse_product();
  std::vector<MathPtr> factors = {parse_juxtaposed()}, ratio;
  const auto product = [&] {
    return factors.size() == 1 ? factors[0] : make_math(MathKind::kMultiply, factors);
  };
  for (;;) {
    const bool is_power = is_symbol("*") && next().text == "*";
    if (!is_power && (take_symbol("*") || take_command("cdot") || take_command("times"))) {
      factors.push_back(parse_signed());
    } else if ((!begins_sign("/") && take_symbol("/")) || take_command("div")) {
      factors.push_back(reciprocal(parse_signed()));
    } else if (take_command("bmod") || take_command("mod")) {
      factors = {make_function("remainder", {product(), parse_signed()})};
    } else if (is_symbol(":") && next().text != "=" && !colon_separates_) {
      take();
      ratio.push_back(product());
      factors = {parse_signed()};
    } else if (ratio.empty()) {
      return product();
    } else {
      ratio.push_back(product());
      return make_function("ratio", std::move(ratio));
    }
  }
}

MathPtr MathGrammar::parse_signed() {
  const Depth depth(*this);
  if (take_symbol("-")) return negate(parse_signed());
  if (take_symbol("+")) return parse_signed();
  return parse_juxtaposed();
}

bool MathGrammar::starts_factor() const {
  const Token& token = current();
  if (token.kind == TokenKind::kNumber) return true;
  if (token.kind == TokenKind::kLetter) {
    // "(0,1)U(2,3)"
    const bool is_union = token.text == "U" && at_ > 0 &&
                          (tokens_[at_ - 1].text == ")" || tokens_[at_ - 1].text == "]") &&
                          (next().text == "(" || next().text == "[");
    return !is_union;
  }
  if (token.kind == TokenKind::kSymbol)
    return (token.text == "(" && !begins_modulus()) || token.text == "{" || token.text == "[" ||
           (token.text == "|" && !bar_closes_);
  static constexpr std::array<std::string_view, 59> kNoFactors = {
      "ngtr",        "nleq",     "nless",  "ngeq",       "cdot",     "times",     "div",
      "pm",          "mp",       "cup",    "cap",        "bigcup",   "setminus",  "bmod",
      "mod",         "pmod",     "le",     "leq",        "leqslant", "leqq",      "ge",
      "geq",         "geqslant", "geqq",   "ne",         "neq",      "not",       "in",
      "notin",       "equiv",    "approx", "approxeq",   "doteq",    "doteqdot",  "simeq",
      "thickapprox", "thicksim", "sim",    "cong",       "perp",     "parallel",  "subset",
      "subseteq",    "propto",   "to",     "rightarrow", "lor",      "vee",       "mid",
      "rfloor",      "rceil",    "rangle", "end",        "coloneqq", "backslash", "%",
      "}",           "\\",       "circ"};
  return token.kind == TokenKind::kCommand &&
         std::find(kNoFactors.begin(), kNoFactors.end(), token.text) == kNoFactors.end();
}

/// 2xy, 3\sqrt{2}.
MathPtr MathGrammar::parse_juxtaposed() {
  const bool begins_with_number = current().kind == TokenKind::kNumber;
  std::vector<MathPtr> factors = {parse_postfix()};
  if (begins_with_number && factors[0]->is_number()) {
    factors[0] = mixed_number(factors[0]);
    if (take_symbol("%") || take_command("%"))
      factors[0] = make_math(MathKind::kPercent, {factors[0]});
  }
  while (starts_factor()) {
    // Two numbers side by side are neither one number nor a product.
    if (current().kind == TokenKind::kNumber && factors.back()->is_number()) throw NotUnderstood{};
    factors.push_back(parse_postfix());
  }
  return factors.size() == 1 ? factors[0] : make_math(MathKind::kMultiply, std::move(factors));
}

/// 1\frac{1}{2} and "1 1/2" are sums.
MathPtr MathGrammar::mixed_number(const MathPtr& whole) {
  if (whole->decimal_places || whole->number->get_den() != 1) return whole;
  const size_t begin = at_;
  MathPtr part;
  if (is_command("frac")) {
    take();
    part = parse_fraction();
    if (is_symbol("^") || is_symbol("!")) part = nullptr;
  } else if (current().kind == TokenKind::kNumber && next().text == "/") {
    const MathPtr above = parse_number();
    take();
    if (current().kind != TokenKind::kNumber) throw NotUnderstood{};
    const MathPtr below = parse_number();
    if (*below->number == 0) throw NotUnderstood{};
    part = make_number(*above->number / *below->number);
  }
  if (part && part->is_number()) return make_number(*whole->number + *part->number);
  at_ = begin;
  return whole;
}

MathPtr MathGrammar::parse_postfix() {
  MathPtr value = parse_primary();
  for (;;) {
    if (is_symbol("*") && next().text == "*" && next().begin == current().end) {
      take();
      take();
      value = make_math(MathKind::kPower, {value, parse_group_or_one()});
    } else if (take_symbol("^")) {
      if (take_degree())
        value = make_function("degrees", {value});
      else
        value = make_math(MathKind::kPower, {value, parse_group_or_one()});
    } else if (take_factorial(value)) {
      continue;
    } else if (take_symbol("%") || take_command("%")) {
      value = make_math(MathKind::kPercent, {value});
    } else if (take_command("circ") || take_command("degree")) {
      value = make_function("degrees", {value});
    } else {
      return value;
    }
  }
}

bool MathGrammar::take_factorial(MathPtr& value) {
  if (!is_symbol("!")) return false;
  const Token& before = tokens_[at_ - 1];
  const bool follows_number =
      before.end == current().begin && (before.kind == TokenKind::kNumber || before.text == ")");
  // "x != 8" is a relation, "5!=120" is not.
  if (begins_sign("!") && !follows_number) return false;
  take();
  const bool is_double = is_symbol("!") && !begins_sign("!");
  if (is_double) take();
  value = make_function(is_double ? "double factorial" : "factorial", {value});
  return true;
}

/// ^\circ and ^{\circ}, with the letter of a scale of temperature at the end.
bool MathGrammar::take_degree() {
  const size_t begin = at_;
  const bool has_brace = take_symbol("{");
  if ((!take_command("circ") && !take_command("degree")) || (has_brace && !take_symbol("}"))) {
    at_ = begin;
    return false;
  }
  const bool is_scale = current().text == "C" || current().text == "F";
  if (is_scale && next().kind == TokenKind::kEnd) take();
  return true;
}

/// {…}: \frac and \sqrt insist on braces, a power does not.
MathPtr MathGrammar::parse_group() {
  expect_symbol("{");
  const bool bar_closes = std::exchange(bar_closes_, false);
  MathPtr inner = parse_list();
  bar_closes_ = bar_closes;
  expect_symbol("}");
  return inner;
}

MathPtr MathGrammar::parse_group_or_one() {
  const Depth depth(*this);
  if (is_symbol("{")) return parse_group();
  if (take_symbol("-")) return negate(parse_group_or_one());
  return parse_primary();
}

MathPtr MathGrammar::parse_primary() {
  const Depth depth(*this);
  switch (current().kind) {
    case TokenKind::kNumber:
      return parse_number();
    case TokenKind::kLetter:
      return parse_letter();
    case TokenKind::kCommand:
      return parse_command();
    case TokenKind::kSymbol:
      return parse_bracket();
    default:
      throw NotUnderstood{};
  }
}

MathPtr MathGrammar::parse_number() {
  const std::string text = take().text;
  MathPtr value =
      text.ends_with(')') ? repeating_number(text) : lockstep::reward::parse_number(text);
  if (!value) throw NotUnderstood{};
  // A base, as in 101_2: latex2sympy drops it.
  if (take_symbol("_")) parse_group_or_one();
  return value;
}

MathPtr MathGrammar::parse_letter() {
  const std::string letter = take().text;
  std::string name = lower(letter);
  if (is_symbol("_")) return parse_subscript(name);
  if (letter == "e" || letter == "E") return make_math(MathKind::kEuler);
  const bool names_function = name == "f" || name == "g" || name == "h";
  if (names_function && is_symbol("(")) {
    // f(x) is compared as it is written.
    const size_t begin = current().begin;
    skip_parentheses();
    name += without_spaces(text_.substr(begin, current().begin - begin));
  }
  return make_math(MathKind::kSymbol, {}, name);
}

void MathGrammar::skip_parentheses() {
  int depth = 0;
  do {
    if (is_symbol("(")) ++depth;
    if (is_symbol(")")) --depth;
    if (current().kind == TokenKind::kEnd) throw NotUnderstood{};
    take();
  } while (depth > 0);
}

/// The text between the braces here, which need not be mathematics.
std::string MathGrammar::raw_group() {
  expect_symbol("{");
  const size_t begin = current().begin;
  int depth = 1;
  size_t end = begin;
  while (depth > 0) {
    if (current().kind == TokenKind::kEnd) throw NotUnderstood{};
    end = current().begin;
    if (is_symbol("{")) ++depth;
    if (is_symbol("}")) --depth;
    take();
  }
  return without_spaces(text_.substr(begin, end - begin));
}

MathPtr MathGrammar::parse_subscript(const std::string& name) {
  expect_symbol("_");
  const std::string index = is_symbol("{") ? raw_group() : lower(take().text);
  return make_math(MathKind::kSymbol, {}, name + "_" + index);
}

namespace {

MathPtr parse_whole(const std::string& text) {
  try {
    return MathGrammar(text).parse();
  } catch (const NotUnderstood&) {
    return nullptr;
  }
}

/// Where signs of equality stand outside of brackets: begin and end of each.
std::vector<std::pair<size_t, size_t>> equality_signs(std::string_view text) {
  std::vector<std::pair<size_t, size_t>> signs;
  int depth = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '{' || c == '(' || c == '[') ++depth;
    if (c == '}' || c == ')' || c == ']') --depth;
    if (depth != 0) continue;
    const bool is_part_of_other = i > 0 && (text[i - 1] == '<' || text[i - 1] == '>' ||
                                            text[i - 1] == '!' || text[i - 1] == '\\');
    if (c == '=' && !is_part_of_other) signs.emplace_back(i, i + 1);
    constexpr std::string_view kApproximately = "\\approx";
    if (text.substr(i, kApproximately.size()) == kApproximately)
      signs.emplace_back(i, i + kApproximately.size());
  }
  return signs;
}

/// An equation of which a side is not understood: that side counts as a name, unless it is the
/// last.
MathPtr parse_sides(const std::string& text) {
  constexpr size_t kMostSides = 16;
  const auto signs = equality_signs(text);
  if (signs.empty() || signs.size() > kMostSides) return nullptr;
  auto relation = std::make_shared<Math>();
  relation->kind = MathKind::kRelation;
  size_t begin = 0;
  for (size_t i = 0; i <= signs.size(); ++i) {
    const bool is_last = i == signs.size();
    const std::string side = text.substr(begin, is_last ? text.npos : signs[i].first - begin);
    MathPtr value = parse_whole(side);
    if (!value && is_last) return nullptr;
    relation->children.push_back(value ? value
                                       : make_math(MathKind::kSymbol, {}, without_spaces(side)));
    if (is_last) break;
    relation->operators.emplace_back(text[signs[i].first] == '=' ? "=" : "~");
    begin = signs[i].second;
  }
  return relation;
}

/// ]a, b[ and [a, b[ are written (a, b) and [a, b) elsewhere.
void rewrite_outward_brackets(std::string& text) {
  const bool turns_left = text.starts_with(']'), turns_right = text.ends_with('[');
  const bool is_interval = text.size() > 2 && (turns_left || turns_right) &&
                           text.find_first_of("[](){}", 1) == text.size() - 1;
  if (!is_interval) return;
  if (turns_left) text.front() = '(';
  if (turns_right) text.back() = ')';
}

}  // namespace

MathPtr parse_latex(std::string_view latex) {
  if (latex.size() > kLongestFormula) return nullptr;
  std::string text(text::jinja::strip(unicode_to_latex(latex)));
  rewrite_outward_brackets(text);
  MathPtr value = parse_whole(text);
  return value ? value : parse_sides(text);
}

MathPtr parse_plain(std::string_view expression) {
  std::string text;
  for (size_t i = 0; i < expression.size(); ++i) {
    const char c = expression[i];
    // "5." is a decimal here; * twice is a power.
    const bool ends_number = c == '.' && i > 0 && is_digit(expression[i - 1]) &&
                             (i + 1 == expression.size() || !is_digit(expression[i + 1]));
    if (ends_number) {
      text += ".0";
    } else if (c == '*' && i + 1 < expression.size() && expression[i + 1] == '*') {
      text += '^';
      ++i;
    } else {
      text += c == '\n' || c == '\t' ? ' ' : c;
    }
  }
  // Numbers and brackets side by side are no product in a plain expression.
  for (size_t i = 0; i + 1 < text.size(); ++i) {
    const size_t next = text.find_first_not_of(' ', i + 1);
    if (next == text.npos) break;
    const bool ends = is_digit(text[i]) || text[i] == ')';
    const bool begins = is_digit(text[next]) || text[next] == '(';
    if (ends && begins && (next > i + 1 || text[next] == '(' || text[i] == ')')) return nullptr;
  }
  return parse_latex(text);
}

}  // namespace lockstep::reward
