// Jinja's expression grammar; the order of the levels is that of jinja2/parser.py.
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja/expression_parser.h"

#include <array>
#include <charconv>
#include <limits>

namespace lockstep::text::jinja {
namespace {

template <class... Operands>
ExpressionPtr make(ExpressionKind kind, int line, Operands... operands) {
  auto result = std::make_unique<Expression>();
  result->kind = kind;
  result->line = line;
  (result->operands.push_back(std::move(operands)), ...);
  return result;
}

ExpressionPtr make_constant(Value value, int line) {
  ExpressionPtr result = make(ExpressionKind::kConstant, line);
  result->constant = std::move(value);
  return result;
}

ExpressionPtr make_binary(Operator symbol, ExpressionPtr left, ExpressionPtr right) {
  const int line = left->line;
  ExpressionPtr result = make(ExpressionKind::kBinary, line, std::move(left), std::move(right));
  result->operators.push_back(symbol);
  return result;
}

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kData:
      return "text";
    case TokenKind::kVariableBegin:
      return "\"{{\"";
    case TokenKind::kVariableEnd:
      return "\"}}\"";
    case TokenKind::kBlockBegin:
      return "\"{%\"";
    case TokenKind::kBlockEnd:
      return "\"%}\"";
    case TokenKind::kString:
      return "a string";
    case TokenKind::kEnd:
      return "the end of the template";
    default:
      return "\"" + token.text + "\"";
  }
}

struct Symbol {
  std::string_view text;
  Operator meaning;
};
constexpr std::array<Symbol, 6> kComparisons = {{{"==", Operator::kEqual},
                                                 {"!=", Operator::kNotEqual},
                                                 {"<", Operator::kLess},
                                                 {"<=", Operator::kLessEqual},
                                                 {">", Operator::kGreater},
                                                 {">=", Operator::kGreaterEqual}}};
constexpr std::array<Symbol, 2> kSums = {{{"+", Operator::kAdd}, {"-", Operator::kSubtract}}};
constexpr std::array<Symbol, 4> kProducts = {{{"*", Operator::kMultiply},
                                              {"/", Operator::kDivide},
                                              {"//", Operator::kFloorDivide},
                                              {"%", Operator::kModulo}}};

template <size_t kCount>
const Symbol* find_symbol(const std::array<Symbol, kCount>& symbols, const Token& token) {
  for (const Symbol& symbol : symbols) {
    if (token.is_operator(symbol.text)) return &symbol;
  }
  return nullptr;
}

}  // namespace

void ExpressionParser::Nesting::deepen() {
  // Below the interpreter's own limit, and small enough for the destructors' recursion.
  constexpr int kMaxNesting = 200;
  if (parser_.nesting_ >= kMaxNesting) {
    throw JinjaError{"bad-template",
                     fmt::format("expected at most {} levels of nesting, got more", kMaxNesting),
                     parser_.current().line};
  }
  ++parser_.nesting_;
  ++levels_;
}

Token ExpressionParser::take() {
  const Token token = current();
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool ExpressionParser::take_name_if(std::string_view name) {
  const bool found = current().is_name(name);
  if (found) take();
  return found;
}

bool ExpressionParser::take_operator_if(std::string_view symbol) {
  const bool found = current().is_operator(symbol);
  if (found) take();
  return found;
}

void ExpressionParser::fail_expected(std::string_view what) const {
  throw JinjaError{"bad-template", fmt::format("expected {}, got {}", what, describe(current())),
                   current().line};
}

Token ExpressionParser::expect(TokenKind kind, std::string_view what) {
  if (current().kind != kind) fail_expected(what);
  return take();
}

void ExpressionParser::expect_operator(std::string_view symbol) {
  if (!take_operator_if(symbol)) fail_expected(fmt::format("\"{}\"", symbol));
}

ExpressionPtr ExpressionParser::parse_tuple(bool with_conditional, std::string_view end_name) {
  const int line = current().line;
  std::vector<ExpressionPtr> items;
  bool is_tuple = false;
  const auto at_end = [&] {
    return current().kind == TokenKind::kVariableEnd || current().kind == TokenKind::kBlockEnd ||
           current().is_operator(")") || (!end_name.empty() && current().is_name(end_name));
  };
  while (!at_end()) {
    items.push_back(with_conditional ? parse_conditional() : parse_or());
    if (!take_operator_if(",")) break;
    is_tuple = true;
  }
  if (items.empty() && !is_tuple) fail_expected("an expression");
  if (!is_tuple) return std::move(items.front());
  ExpressionPtr result = make(ExpressionKind::kTuple, line);
  result->operands = std::move(items);
  return result;
}

ExpressionPtr ExpressionParser::parse_target(bool with_namespace, std::string_view end_name) {
  const int line = current().line;
  ExpressionPtr first = parse_target_item(with_namespace);
  if (!current().is_operator(",")) return first;
  ExpressionPtr result = make(ExpressionKind::kTuple, line, std::move(first));
  while (take_operator_if(",")) {
    const bool at_end = current().is_operator("=") || current().is_operator(")") ||
                        current().kind == TokenKind::kBlockEnd ||
                        (!end_name.empty() && current().is_name(end_name));
    if (at_end) break;
    result->operands.push_back(parse_target_item(with_namespace));
  }
  return result;
}

ExpressionPtr ExpressionParser::parse_target_item(bool with_namespace) {
  const Nesting nesting(*this);
  if (take_operator_if("(")) {
    ExpressionPtr inner = parse_target(with_namespace);
    expect_operator(")");
    return inner;
  }
  const Token name = expect(TokenKind::kName, "a name to assign to");
  for (const std::string_view constant : {"true", "false", "none", "True", "False", "None"}) {
    if (name.text == constant)
      throw JinjaError{"bad-template", "expected a name to assign to, got " + name.text, name.line};
  }
  if (with_namespace && take_operator_if(".")) {
    ExpressionPtr result = make(ExpressionKind::kNamespaceAttribute, name.line);
    result->constant = Value::string(name.text);
    result->name = expect(TokenKind::kName, "an attribute's name").text;
    return result;
  }
  ExpressionPtr result = make(ExpressionKind::kName, name.line);
  result->name = name.text;
  return result;
}

ExpressionPtr ExpressionParser::parse_conditional() {
  const Nesting nesting(*this);
  ExpressionPtr value = parse_or();
  while (take_name_if("if")) {
    ExpressionPtr condition = parse_or();
    ExpressionPtr other = take_name_if("else") ? parse_conditional() : nullptr;
    const int line = value->line;
    value = make(ExpressionKind::kConditional, line, std::move(condition), std::move(value),
                 std::move(other));
  }
  return value;
}

// The loops below build trees that lean left: each turn counts as nesting, because the interpreter
// recurses into them.
ExpressionPtr ExpressionParser::parse_or() {
  ExpressionPtr left = parse_and();
  Nesting levels(*this, 0);
  while (take_name_if("or")) {
    levels.deepen();
    ExpressionPtr right = parse_and();
    const int line = left->line;
    left = make(ExpressionKind::kOr, line, std::move(left), std::move(right));
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_and() {
  ExpressionPtr left = parse_not();
  Nesting levels(*this, 0);
  while (take_name_if("and")) {
    levels.deepen();
    ExpressionPtr right = parse_not();
    const int line = left->line;
    left = make(ExpressionKind::kAnd, line, std::move(left), std::move(right));
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_not() {
  if (!current().is_name("not")) return parse_compare();
  const Nesting nesting(*this);
  const int line = take().line;
  return make(ExpressionKind::kNot, line, parse_not());
}

ExpressionPtr ExpressionParser::parse_compare() {
  const int line = current().line;
  ExpressionPtr first = parse_sum();
  ExpressionPtr result;
  for (;;) {
    Operator meaning = Operator::kIn;
    if (const Symbol* symbol = find_symbol(kComparisons, current())) {
      meaning = symbol->meaning;
      take();
    } else if (current().is_name("not") && ahead().is_name("in")) {
      meaning = Operator::kNotIn;
      take();
      take();
    } else if (!take_name_if("in")) {
      break;
    }
    if (result == nullptr) result = make(ExpressionKind::kCompare, line, std::move(first));
    result->operators.push_back(meaning);
    result->operands.push_back(parse_sum());
  }
  return result ? std::move(result) : std::move(first);
}

ExpressionPtr ExpressionParser::parse_sum() {
  ExpressionPtr left = parse_concat();
  Nesting levels(*this, 0);
  while (const Symbol* symbol = find_symbol(kSums, current())) {
    levels.deepen();
    take();
    left = make_binary(symbol->meaning, std::move(left), parse_concat());
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_concat() {
  ExpressionPtr first = parse_product();
  if (!current().is_operator("~")) return first;
  const int line = first->line;
  ExpressionPtr result = make(ExpressionKind::kConcat, line, std::move(first));
  while (take_operator_if("~")) result->operands.push_back(parse_product());
  return result;
}

ExpressionPtr ExpressionParser::parse_product() {
  ExpressionPtr left = parse_power();
  Nesting levels(*this, 0);
  while (const Symbol* symbol = find_symbol(kProducts, current())) {
    levels.deepen();
    take();
    left = make_binary(symbol->meaning, std::move(left), parse_power());
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_power() {
  ExpressionPtr left = parse_unary(/*with_filters=*/true);
  Nesting levels(*this, 0);
  while (take_operator_if("**")) {
    levels.deepen();
    left = make_binary(Operator::kPower, std::move(left), parse_unary(/*with_filters=*/true));
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_unary(bool with_filters) {
  const Nesting nesting(*this);
  const int line = current().line;
  ExpressionPtr result;
  if (take_operator_if("-")) {
    result = make(ExpressionKind::kNegate, line, parse_unary(/*with_filters=*/false));
  } else if (take_operator_if("+")) {
    result = make(ExpressionKind::kPlus, line, parse_unary(/*with_filters=*/false));
  } else {
    result = parse_primary();
  }
  result = parse_postfix(std::move(result));
  return with_filters ? parse_filter_tail(std::move(result)) : std::move(result);
}

ExpressionPtr ExpressionParser::parse_primary() {
  const Token& token = current();
  if (token.kind == TokenKind::kName) return parse_name();
  if (token.kind == TokenKind::kInteger || token.kind == TokenKind::kFloat) return parse_number();
  if (token.kind == TokenKind::kString) {
    const int line = token.line;
    std::string text;
    while (current().kind == TokenKind::kString) text += take().text;
    return make_constant(Value::string(std::move(text)), line);
  }
  if (token.is_operator("(")) return parse_parenthesized();
  if (token.is_operator("[")) return parse_list();
  if (token.is_operator("{")) return parse_dict();
  fail_expected("an expression");
}

ExpressionPtr ExpressionParser::parse_name() {
  const Token token = take();
  const std::string& name = token.text;
  if (name == "true" || name == "True") return make_constant(Value::boolean(true), token.line);
  if (name == "false" || name == "False") return make_constant(Value::boolean(false), token.line);
  if (name == "none" || name == "None") return make_constant(Value::none(), token.line);
  mentions_varargs_ = mentions_varargs_ || name == "varargs";
  mentions_kwargs_ = mentions_kwargs_ || name == "kwargs";
  ExpressionPtr result = make(ExpressionKind::kName, token.line);
  result->name = name;
  return result;
}

ExpressionPtr ExpressionParser::parse_number() {
  const Token token = take();
  const char* end = token.text.data() + token.text.size();
  if (token.kind == TokenKind::kFloat) {
    double value = 0;
    const auto read = std::from_chars(token.text.data(), end, value);
    if (read.ec == std::errc::result_out_of_range) value = std::stod("inf");
    return make_constant(Value::real(value), token.line);
  }
  int64_t value = 0;
  if (std::from_chars(token.text.data(), end, value).ec != std::errc())
    throw JinjaError{"bad-template", "expected an integer of 64 bits, got " + token.text,
                     token.line};
  return make_constant(Value::integer(value), token.line);
}

ExpressionPtr ExpressionParser::parse_parenthesized() {
  const int line = take().line;
  ExpressionPtr result;
  if (current().is_operator(")")) {
    result = make(ExpressionKind::kTuple, line);
  } else {
    result = parse_tuple(/*with_conditional=*/true);
  }
  expect_operator(")");
  return result;
}

ExpressionPtr ExpressionParser::parse_list() {
  ExpressionPtr result = make(ExpressionKind::kList, take().line);
  while (!current().is_operator("]")) {
    if (!result->operands.empty()) {
      expect_operator(",");
      if (current().is_operator("]")) break;
    }
    result->operands.push_back(parse_expression());
  }
  expect_operator("]");
  return result;
}

ExpressionPtr ExpressionParser::parse_dict() {
  ExpressionPtr result = make(ExpressionKind::kDict, take().line);
  while (!current().is_operator("}")) {
    if (!result->operands.empty()) {
      expect_operator(",");
      if (current().is_operator("}")) break;
    }
    result->operands.push_back(parse_expression());
    expect_operator(":");
    result->operands.push_back(parse_expression());
  }
  expect_operator("}");
  return result;
}

ExpressionPtr ExpressionParser::parse_postfix(ExpressionPtr object) {
  Nesting levels(*this, 0);
  for (;;) {
    if (current().is_operator(".") || current().is_operator("[")) {
      object = parse_subscript(std::move(object));
    } else if (current().is_operator("(")) {
      object = parse_call(std::move(object));
    } else {
      return object;
    }
    levels.deepen();
  }
}

ExpressionPtr ExpressionParser::parse_filter_tail(ExpressionPtr value) {
  Nesting levels(*this, 0);
  for (;;) {
    if (current().is_operator("|")) {
      value = parse_filters(std::move(value), /*starts_inside=*/false);
    } else if (current().is_name("is")) {
      value = parse_test(std::move(value));
    } else if (current().is_operator("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
    levels.deepen();
  }
}

ExpressionPtr ExpressionParser::parse_subscript(ExpressionPtr object) {
  const Token token = take();
  if (token.text == "[") return parse_bracket(std::move(object), token.line);
  if (current().kind == TokenKind::kInteger)
    return make(ExpressionKind::kItem, token.line, std::move(object), parse_number());
  ExpressionPtr result = make(ExpressionKind::kAttribute, token.line, std::move(object));
  result->name = expect(TokenKind::kName, "a name or number after \".\"").text;
  return result;
}

ExpressionPtr ExpressionParser::parse_bracket(ExpressionPtr object, int line) {
  std::vector<ExpressionPtr> bounds;
  const auto at_bound_end = [&] {
    return current().is_operator(":") || current().is_operator("]");
  };
  bounds.push_back(at_bound_end() ? nullptr : parse_expression());
  if (current().is_operator(",")) fail_expected("one index");
  if (!current().is_operator(":")) {
    if (bounds[0] == nullptr) fail_expected("an index");
    expect_operator("]");
    return make(ExpressionKind::kItem, line, std::move(object), std::move(bounds[0]));
  }
  while (bounds.size() < 3 && take_operator_if(":"))
    bounds.push_back(at_bound_end() ? nullptr : parse_expression());
  bounds.resize(3);
  expect_operator("]");
  return make(ExpressionKind::kSlice, line, std::move(object), std::move(bounds[0]),
              std::move(bounds[1]), std::move(bounds[2]));
}

ExpressionPtr ExpressionParser::parse_call(ExpressionPtr callee) {
  ExpressionPtr result = make(ExpressionKind::kCall, current().line, std::move(callee));
  result->arguments = parse_arguments();
  return result;
}

ArgumentExpressions ExpressionParser::parse_arguments() {
  ArgumentExpressions arguments;
  expect_operator("(");
  bool is_first = true;
  while (!current().is_operator(")")) {
    if (!is_first) {
      expect_operator(",");
      if (current().is_operator(")")) break;
    }
    is_first = false;
    parse_argument(arguments);
  }
  expect_operator(")");
  return arguments;
}

void ExpressionParser::parse_argument(ArgumentExpressions& arguments) {
  const auto ensure = [&](bool good) {
    if (!good) fail_expected("positional before keyword arguments");
  };
  if (take_operator_if("*")) {
    ensure(!arguments.star && !arguments.double_star);
    arguments.star = parse_expression();
  } else if (take_operator_if("**")) {
    ensure(!arguments.double_star);
    arguments.double_star = parse_expression();
  } else if (current().kind == TokenKind::kName && ahead().is_operator("=")) {
    ensure(!arguments.double_star);
    std::string name = take().text;
    take();
    arguments.keyword.emplace_back(std::move(name), parse_expression());
  } else {
    ensure(!arguments.star && !arguments.double_star && arguments.keyword.empty());
    arguments.positional.push_back(parse_expression());
  }
}

ExpressionPtr ExpressionParser::parse_filters(ExpressionPtr input, bool starts_inside) {
  Nesting levels(*this, 0);
  while (starts_inside || take_operator_if("|")) {
    starts_inside = false;
    const Token name = expect(TokenKind::kName, "a filter's name");
    ExpressionPtr filter = make(ExpressionKind::kFilter, name.line, std::move(input));
    filter->name = name.text;
    if (current().is_operator("(")) filter->arguments = parse_arguments();
    input = std::move(filter);
    levels.deepen();
  }
  return input;
}

ExpressionPtr ExpressionParser::parse_test(ExpressionPtr value) {
  const int line = take().line;
  const bool is_negated = take_name_if("not");
  ExpressionPtr test = make(ExpressionKind::kTest, line, std::move(value));
  test->name = expect(TokenKind::kName, "a test's name").text;
  const Token& next = current();
  const bool is_argument = next.kind == TokenKind::kString || next.kind == TokenKind::kInteger ||
                           next.kind == TokenKind::kFloat || next.is_operator("[") ||
                           next.is_operator("{") ||
                           (next.kind == TokenKind::kName && !next.is_name("else") &&
                            !next.is_name("or") && !next.is_name("and"));
  if (next.is_operator("(")) {
    test->arguments = parse_arguments();
  } else if (is_argument) {
    if (next.is_name("is")) fail_expected("one test (tests do not chain)");
    test->arguments.positional.push_back(parse_postfix(parse_primary()));
  }
  return is_negated ? make(ExpressionKind::kNot, line, std::move(test)) : std::move(test);
}

}  // namespace lockstep::text::jinja
