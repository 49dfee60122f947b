// Recursive descent over LaTeX, with the precedences of latex2sympy.
// SPDX-License-Identifier: Apache-2.0
#include "reward/math_parser.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <unordered_map>

#include "reward/math_tokens.h"
#include "text/jinja_string.h"

namespace lockstep::reward {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text), tokens_(tokenize_math(text)) {}

  MathPtr parse() {
    MathPtr result = parse_list();
    if (current().kind != TokenKind::kEnd) throw NotUnderstood{};
    return result;
  }

 private:
  const Token& current() const { return tokens_[at_]; }
  bool is_symbol(std::string_view text) const {
    return current().kind == TokenKind::kSymbol && current().text == text;
  }
  bool is_command(std::string_view name) const {
    return current().kind == TokenKind::kCommand && current().text == name;
  }
  Token take() {
    const Token token = current();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool take_symbol(std::string_view text) { return is_symbol(text) && (take(), true); }
  bool take_command(std::string_view name) { return is_command(name) && (take(), true); }
  void expect_symbol(std::string_view text) {
    if (!take_symbol(text)) throw NotUnderstood{};
  }

  /// a, b, c: a set without order; "x = 1, 2" gives x both values.
  MathPtr parse_list() {
    std::vector<MathPtr> items;
    do {
      items.push_back(parse_relation());
    } while (take_symbol(",") || take_symbol(";"));
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

  std::optional<std::string> take_relation_sign() {
    static const std::unordered_map<std::string_view, std::string_view> kCommands = {
        {"le", "<="},  {"leq", "<="},      {"leqslant", "<="}, {"ge", ">="},
        {"geq", ">="}, {"geqslant", ">="}, {"lt", "<"},        {"gt", ">"},
        {"ne", "!="},  {"neq", "!="},      {"in", "="}};
    if (current().kind == TokenKind::kCommand) {
      const auto found = kCommands.find(current().text);
      if (found == kCommands.end()) return std::nullopt;
      take();
      return std::string(found->second);
    }
    for (const std::string_view sign : {"=", "<", ">"}) {
      if (!take_symbol(sign)) continue;
      const bool is_or_equal = sign != "=" && take_symbol("=");
      return std::string(sign) + (is_or_equal ? "=" : "");
    }
    return std::nullopt;
  }

  MathPtr parse_relation() {
    const Depth depth(*this);
    auto relation = std::make_shared<Math>();
    relation->kind = MathKind::kRelation;
    relation->children.push_back(parse_union());
    // x ≈ 3.14 stands for its right side.
    while (take_command("approx")) relation->children.back() = parse_union();
    while (const std::optional<std::string> sign = take_relation_sign()) {
      relation->operators.push_back(*sign);
      relation->children.push_back(parse_union());
    }
    if (relation->operators.empty()) return relation->children[0];
    return relation;
  }

  MathPtr parse_union() {
    std::vector<MathPtr> parts = {parse_sum()};
    while (take_command("cup")) parts.push_back(parse_sum());
    return parts.size() == 1 ? parts[0] : make_math(MathKind::kUnion, std::move(parts));
  }

  static MathPtr plus_minus(const MathPtr& left, const MathPtr& right) {
    const auto sum = [&](const MathPtr& part) {
      return left ? make_math(MathKind::kAdd, {left, part}) : part;
    };
    return make_math(MathKind::kSet, {sum(negate(right)), sum(right)});
  }

  MathPtr parse_sum() {
    std::vector<MathPtr> terms;
    if (take_command("pm")) return plus_minus(nullptr, parse_product());
    terms.push_back(parse_product());
    for (;;) {
      if (take_symbol("+")) {
        terms.push_back(parse_product());
      } else if (take_symbol("-")) {
        terms.push_back(negate(parse_product()));
      } else if (take_command("pm")) {
        const MathPtr left = terms.size() == 1 ? terms[0] : make_math(MathKind::kAdd, terms);
        return plus_minus(left, parse_product());
      } else {
        return terms.size() == 1 ? terms[0] : make_math(MathKind::kAdd, std::move(terms));
      }
    }
  }

  MathPtr parse_product() {
    const Depth depth(*this);
    if (take_symbol("-")) return negate(parse_product());
    if (take_symbol("+")) return parse_product();
    std::vector<MathPtr> factors = {parse_juxtaposed()};
    for (;;) {
      if (take_symbol("*") || take_command("cdot") || take_command("times")) {
        factors.push_back(parse_signed());
      } else if (take_symbol("/") || take_symbol(":") || take_command("div")) {
        factors.push_back(make_math(MathKind::kPower, {parse_signed(), make_integer(-1)}));
      } else {
        return factors.size() == 1 ? factors[0]
                                   : make_math(MathKind::kMultiply, std::move(factors));
      }
    }
  }

  MathPtr parse_signed() {
    const Depth depth(*this);
    if (take_symbol("-")) return negate(parse_signed());
    if (take_symbol("+")) return parse_signed();
    return parse_juxtaposed();
  }

  bool starts_factor() const {
    if (current().kind == TokenKind::kNumber || current().kind == TokenKind::kLetter) return true;
    if (current().kind == TokenKind::kSymbol)
      return current().text == "(" || current().text == "{" || current().text == "[";
    static constexpr std::array<std::string_view, 13> kNoFactors = {
        "cdot", "times", "div", "pm", "cup", "le", "leq", "ge", "geq", "ne", "neq", "in", "approx"};
    return current().kind == TokenKind::kCommand && current().text != "}" &&
           current().text != "rfloor" && current().text != "rceil" && current().text != "rangle" &&
           current().text != "\\" && current().text != "end" && current().text != "%" &&
           std::find(kNoFactors.begin(), kNoFactors.end(), current().text) == kNoFactors.end();
  }

  static bool is_plain_number(const Math& value) {
    if (value.kind == MathKind::kNumber) return true;
    return value.kind == MathKind::kFunction && value.name == "frac";
  }

  /// 2xy, 3\sqrt{2}; two numbers side by side are a mixed number, their sum.
  MathPtr parse_juxtaposed() {
    const bool begins_with_number = current().kind == TokenKind::kNumber;
    std::vector<MathPtr> factors = {parse_postfix()};
    bool is_mixed = begins_with_number && factors[0]->kind == MathKind::kNumber;
    while (starts_factor()) {
      const bool is_number_next = current().kind == TokenKind::kNumber || is_command("frac");
      MathPtr next = parse_postfix();
      if (is_mixed && is_number_next && exact_value(*next) && next->kind != MathKind::kPower) {
        const auto sum = add(*exact_value(*factors.back()), *exact_value(*next));
        if (!sum) throw NotUnderstood{};
        factors.back() = number_of(*sum, next->is_decimal);
        continue;
      }
      is_mixed = false;
      factors.push_back(std::move(next));
    }
    return factors.size() == 1 ? factors[0] : make_math(MathKind::kMultiply, std::move(factors));
  }

  static MathPtr number_of(const Rational& value, bool is_decimal) {
    auto result = std::make_shared<Math>();
    result->number = value;
    result->is_decimal = is_decimal;
    return result;
  }

  MathPtr parse_postfix() {
    MathPtr value = parse_primary();
    for (;;) {
      if (take_symbol("^")) {
        if (take_degree()) continue;
        value = make_math(MathKind::kPower, {value, parse_group_or_one()});
      } else if (take_symbol("!")) {
        value = make_math(MathKind::kFunction, {value}, "factorial");
      } else if (take_symbol("%") || take_command("%")) {
        value = make_math(MathKind::kPercent, {value});
      } else if (take_command("circ") || take_command("degree")) {
        continue;  // degrees stay the number that they are
      } else {
        return value;
      }
    }
  }

  /// ^\circ and ^{\circ}.
  bool take_degree() {
    const size_t begin = at_;
    const bool has_brace = take_symbol("{");
    if (take_command("circ") && (!has_brace || take_symbol("}"))) return true;
    at_ = begin;
    return false;
  }

  /// {…}, or one token: \frac and \sqrt insist on braces, a power does not.
  MathPtr parse_group() {
    expect_symbol("{");
    MathPtr inner = parse_list();
    expect_symbol("}");
    return inner;
  }
  MathPtr parse_group_or_one() {
    const Depth depth(*this);
    if (is_symbol("{")) return parse_group();
    if (take_symbol("-")) return negate(parse_group_or_one());
    return parse_primary();
  }

  MathPtr parse_primary() {
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

  MathPtr parse_number() {
    const MathPtr value = make_number(take().text);
    // A base, as in 101_2: latex2sympy drops it.
    if (take_symbol("_")) parse_group_or_one();
    return value;
  }

  static std::string lower(std::string text) { return text::jinja::to_lower(text); }

  MathPtr parse_letter() {
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

  void skip_parentheses() {
    int depth = 0;
    do {
      if (is_symbol("(")) ++depth;
      if (is_symbol(")")) --depth;
      if (current().kind == TokenKind::kEnd) throw NotUnderstood{};
      take();
    } while (depth > 0);
  }

  static std::string without_spaces(std::string_view text) {
    std::string out;
    for (const char c : text) {
      if (c != ' ') out += c;
    }
    return lower(out);
  }

  /// The text between the braces here, which need not be mathematics.
  std::string raw_group() {
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

  MathPtr parse_subscript(const std::string& name) {
    expect_symbol("_");
    const std::string index = is_symbol("{") ? raw_group() : lower(take().text);
    return make_math(MathKind::kSymbol, {}, name + "_" + index);
  }

  /// A word without the brackets around a choice: \text{(A)} is A.
  static MathPtr text_symbol(std::string word) {
    if (word.size() > 2 && word.front() == '(' && word.back() == ')')
      word = word.substr(1, word.size() - 2);
    if (word.empty()) throw NotUnderstood{};
    return make_math(MathKind::kSymbol, {}, word);
  }

  MathPtr parse_command() {
    const std::string name = take().text;
    if (name == "frac") {
      const MathPtr above = parse_group(), below = parse_group();
      const std::optional<Rational> a = literal(*above), b = literal(*below);
      if (a && b && b->num != 0) {
        if (const auto value = multiply(*a, {b->den, b->num}); value && !above->is_decimal)
          return number_of(*Rational::make(value->num, value->den), false);
      }
      return make_math(MathKind::kMultiply,
                       {above, make_math(MathKind::kPower, {below, make_integer(-1)})});
    }
    if (name == "sqrt") return parse_root();
    if (name == "pi") return make_math(MathKind::kPi);
    if (name == "infty") return make_math(MathKind::kInfinity);
    if (name == "emptyset") return make_math(MathKind::kSet);
    if (name == "binom") {
      const MathPtr from = parse_group(), chosen = parse_group();
      return make_math(MathKind::kFunction, {from, chosen}, "binomial");
    }
    if (name == "text" || name == "mbox" || name == "textbf") return text_symbol(raw_group());
    if (name == "boxed") return parse_group();
    if (name == "{") return parse_set();
    if (name == "lfloor") return parse_enclosed("rfloor", "floor");
    if (name == "lceil") return parse_enclosed("rceil", "ceil");
    if (name == "begin") return parse_matrix();
    if (name == "mathbb") return symbol_or_fail("mathbb{" + raw_group() + "}");
    if (name == "overline" || name == "bar") return symbol_or_fail("bar{" + raw_group() + "}");
    return parse_function_or_symbol(name);
  }

  /// The overline of digits is a period, which is not understood; of letters it is a name.
  static MathPtr symbol_or_fail(const std::string& name) {
    if (name.find_first_of("0123456789") != name.npos) throw NotUnderstood{};
    return make_math(MathKind::kSymbol, {}, name);
  }

  static std::optional<Rational> literal(const Math& value) {
    return value.kind == MathKind::kNumber ? value.number : std::nullopt;
  }

  MathPtr parse_root() {
    MathPtr degree = make_integer(2);
    if (take_symbol("[")) {
      degree = parse_sum();
      expect_symbol("]");
    }
    const MathPtr inside = parse_group();
    const std::optional<Rational> exact = exact_value(*degree);
    if (!exact || exact->num == 0) throw NotUnderstood{};
    return make_math(MathKind::kPower,
                     {inside, number_of(*Rational::make(exact->den, exact->num), false)});
  }

  MathPtr parse_enclosed(std::string_view closing, std::string name) {
    const MathPtr inside = parse_sum();
    if (!take_command(closing)) throw NotUnderstood{};
    return make_math(MathKind::kFunction, {inside}, std::move(name));
  }

  MathPtr parse_function_or_symbol(const std::string& name) {
    static constexpr std::array<std::string_view, 13> kFunctions = {
        "sin",    "cos",    "tan",  "cot",  "sec",  "csc", "arcsin",
        "arccos", "arctan", "sinh", "cosh", "tanh", "exp"};
    const bool is_log = name == "log" || name == "ln" || name == "lg";
    if (is_log || std::find(kFunctions.begin(), kFunctions.end(), name) != kFunctions.end())
      return parse_function(name, is_log);
    static constexpr std::array<std::string_view, 26> kLetters = {
        "alpha",   "beta",  "gamma",  "delta", "epsilon", "varepsilon", "zeta", "eta",   "theta",
        "iota",    "kappa", "lambda", "mu",    "nu",      "xi",         "rho",  "sigma", "tau",
        "upsilon", "phi",   "varphi", "chi",   "psi",     "omega",      "ell",  "angle"};
    const std::string small = lower(name);
    if (std::find(kLetters.begin(), kLetters.end(), small) == kLetters.end() &&
        name != "varnothing")
      throw NotUnderstood{};
    return is_symbol("_") ? parse_subscript(small) : make_math(MathKind::kSymbol, {}, small);
  }

  MathPtr parse_function(const std::string& name, bool is_log) {
    MathPtr base;
    if (is_log && take_symbol("_")) base = parse_group_or_one();
    if (is_log && name != "ln" && !base) base = make_integer(10);
    MathPtr exponent;
    if (take_symbol("^")) exponent = parse_group_or_one();
    std::vector<MathPtr> arguments;
    arguments.push_back(parse_juxtaposed());
    if (base) arguments.push_back(base);
    MathPtr value = make_math(MathKind::kFunction, std::move(arguments), is_log ? "log" : name);
    return exponent ? make_math(MathKind::kPower, {value, exponent}) : value;
  }

  MathPtr parse_set() {
    std::vector<MathPtr> items;
    while (!is_command("}")) {
      if (!items.empty()) expect_symbol(",");
      items.push_back(parse_relation());
    }
    take();
    return make_math(MathKind::kSet, std::move(items));
  }

  /// \begin{pmatrix} a & b \\ c & d \end{pmatrix}
  MathPtr parse_matrix() {
    const std::string kind = raw_group();
    if (!kind.ends_with("matrix")) throw NotUnderstood{};
    std::vector<MathPtr> items;
    int64_t num_rows = 1;
    for (;;) {
      items.push_back(parse_sum());
      if (take_symbol("&")) continue;
      if (take_command("\\")) {
        if (is_command("end")) break;
        ++num_rows;
        continue;
      }
      break;
    }
    if (!take_command("end") || raw_group() != kind) throw NotUnderstood{};
    return make_math(MathKind::kMatrix, std::move(items), std::to_string(num_rows));
  }

  /// (…), […], {…}, |…|: grouping, a tuple or an interval.
  MathPtr parse_bracket() {
    const std::string open = take().text;
    if (open == "|") {
      const MathPtr inside = parse_sum();
      expect_symbol("|");
      return make_math(MathKind::kFunction, {inside}, "abs");
    }
    if (open == "{") {
      MathPtr inside = parse_list();
      expect_symbol("}");
      return inside;
    }
    if (open != "(" && open != "[") throw NotUnderstood{};
    std::vector<MathPtr> items = {parse_relation()};
    while (take_symbol(",") || take_symbol(";")) items.push_back(parse_relation());
    const bool is_right_open = is_symbol(")");
    if (!is_right_open && !is_symbol("]")) throw NotUnderstood{};
    take();
    if (items.size() == 1) return items[0];
    if (items.size() > 2) return make_math(MathKind::kTuple, std::move(items));
    auto interval = std::make_shared<Math>();
    interval->kind = MathKind::kInterval;
    interval->children = std::move(items);
    interval->is_left_open = open == "(";
    interval->is_right_open = is_right_open;
    return interval;
  }

  /// Ends a formula that nests too deeply for the stack.
  class Depth {
   public:
    explicit Depth(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > 200) {
        --parser_.depth_;
        throw NotUnderstood{};
      }
    }
    ~Depth() { --parser_.depth_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;

   private:
    Parser& parser_;
  };

  std::string_view text_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

MathPtr parse_latex(std::string_view latex) {
  constexpr size_t kLongest = 4096;  // bytes; an answer of that length is none
  if (latex.size() > kLongest) return nullptr;
  try {
    const std::string text = text::jinja::replace(latex, "\u2212", "-", -1);  // the minus sign
    return Parser(text).parse();
  } catch (const NotUnderstood&) {
    return nullptr;
  }
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
