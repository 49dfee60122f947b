// Python's arithmetic on values.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "text/jinja/builtins.h"
#include "text/jinja/string.h"

namespace lockstep::text::jinja {
namespace {

[[noreturn]] void fail_operands(std::string_view symbol, const Value& left, const Value& right) {
  for (const Value* side : {&left, &right}) {
    if (side->is_undefined()) fail_row("{}", side->undefined_hint());
  }
  fail_row("expected operands of {}, got '{}' and '{}'", symbol, type_name(left), type_name(right));
}

std::string_view symbol_text(Operator symbol) {
  switch (symbol) {
    case Operator::kAdd:
      return "+";
    case Operator::kSubtract:
      return "-";
    case Operator::kMultiply:
      return "*";
    case Operator::kDivide:
      return "/";
    case Operator::kFloorDivide:
      return "//";
    case Operator::kModulo:
      return "%";
    default:
      return "**";
  }
}

Int floor_divide(Int left, Int right) {
  const Int quotient = left / right;
  return left % right != 0 && (left < 0) != (right < 0) ? quotient - 1 : quotient;
}

Int power(Int base, Int exponent) {
  Int result = 1;
  for (Int i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(result, base, &result))
      fail_template("expected integers of 128 bits, got a larger power");
    if (result == 0 || result == 1) break;
    if (result == -1 && base == -1) return exponent % 2 == 0 ? 1 : -1;
  }
  return result;
}

Value integer_operator(Operator symbol, Int left, Int right) {
  const bool divides = symbol == Operator::kDivide || symbol == Operator::kFloorDivide ||
                       symbol == Operator::kModulo;
  if (divides && right == 0) fail_row("expected a divisor other than zero");
  Int result = 0;
  bool overflows = false;
  switch (symbol) {
    case Operator::kAdd:
      overflows = __builtin_add_overflow(left, right, &result);
      break;
    case Operator::kSubtract:
      overflows = __builtin_sub_overflow(left, right, &result);
      break;
    case Operator::kMultiply:
      overflows = __builtin_mul_overflow(left, right, &result);
      break;
    case Operator::kDivide:
      return Value::real(static_cast<double>(left) / static_cast<double>(right));
    case Operator::kFloorDivide:
      // The least integer divided by -1 is the only quotient that does not fit.
      if (right == -1) return integer_operator(Operator::kSubtract, 0, left);
      result = floor_divide(left, right);
      break;
    case Operator::kModulo:
      result = right == -1 ? 0 : left - floor_divide(left, right) * right;
      break;
    default:
      if (right < 0)
        return Value::real(std::pow(static_cast<double>(left), static_cast<double>(right)));
      result = power(left, right);
  }
  if (overflows) fail_template("expected integers of 128 bits, got a larger result");
  return Value::integer(result);
}

Value float_operator(Operator symbol, double left, double right) {
  const bool divides = symbol == Operator::kDivide || symbol == Operator::kFloorDivide ||
                       symbol == Operator::kModulo;
  if (divides && right == 0) fail_row("expected a divisor other than zero");
  double remainder = std::fmod(left, right);
  if (remainder != 0 && (remainder < 0) != (right < 0)) remainder += right;
  switch (symbol) {
    case Operator::kAdd:
      return Value::real(left + right);
    case Operator::kSubtract:
      return Value::real(left - right);
    case Operator::kMultiply:
      return Value::real(left * right);
    case Operator::kDivide:
      return Value::real(left / right);
    case Operator::kFloorDivide:
      return Value::real(std::floor((left - remainder) / right + 0.5));
    case Operator::kModulo:
      return Value::real(remainder);
    default:
      return Value::real(std::pow(left, right));
  }
}

Value concatenate(const Value& left, const Value& right, Budget& budget) {
  budget.bytes(left.bytes().size() + right.bytes().size());
  // Markup escapes what is added to it on either side.
  const bool is_markup = left.is_markup() || right.is_markup();
  const auto piece = [&](const Value& value) {
    return is_markup && !value.is_markup() ? escape_html(value.bytes()) : value.bytes();
  };
  return Value::string(piece(left) + piece(right), is_markup);
}

Value join_sequences(const Value& left, const Value& right, Budget& budget) {
  std::vector<Value> items = left.sequence().items;
  const std::vector<Value>& more = right.sequence().items;
  budget.bytes((items.size() + more.size()) * sizeof(Value));
  items.insert(items.end(), more.begin(), more.end());
  return Value::sequence(left.sequence().kind, std::move(items));
}

bool is_joinable(const Value& value) {
  return value.is_sequence(SequenceKind::kList) || value.is_sequence(SequenceKind::kTuple);
}

Value repeat(const Value& value, Int times, Budget& budget) {
  times = std::max<Int>(times, 0);
  const size_t one =
      value.is_string() ? value.bytes().size() : value.sequence().items.size() * sizeof(Value);
  // Clamped to a number far beyond the budget, so that nothing overflows.
  if (one > 0 && times > (Int{1} << 40)) times = Int{1} << 40;
  budget.bytes(static_cast<uint64_t>(times) * one);
  if (one == 0) times = 0;
  if (value.is_string()) {
    std::string result;
    for (Int i = 0; i < times; ++i) result += value.bytes();
    return Value::string(std::move(result), value.is_markup());
  }
  std::vector<Value> items;
  const std::vector<Value>& part = value.sequence().items;
  for (Int i = 0; i < times; ++i) items.insert(items.end(), part.begin(), part.end());
  return Value::sequence(value.sequence().kind, std::move(items));
}

}  // namespace

Value apply_operator(Operator symbol, const Value& left, const Value& right, Budget& budget) {
  if (left.is_integral() && right.is_integral())
    return integer_operator(symbol, left.as_int(), right.as_int());
  if (left.is_number() && right.is_number())
    return float_operator(symbol, left.as_double(), right.as_double());
  if (symbol == Operator::kAdd) {
    if (left.is_string() && right.is_string()) return concatenate(left, right, budget);
    if (is_joinable(left) && is_joinable(right) && left.sequence().kind == right.sequence().kind)
      return join_sequences(left, right, budget);
  }
  if (symbol == Operator::kMultiply) {
    const auto is_repeatable = [](const Value& value) {
      return value.is_string() || is_joinable(value);
    };
    if (is_repeatable(left) && right.is_integral()) return repeat(left, right.as_int(), budget);
    if (is_repeatable(right) && left.is_integral()) return repeat(right, left.as_int(), budget);
  }
  if (symbol == Operator::kModulo && left.is_string())
    return Value::string(format_percent(left.text(), right, budget), left.is_markup());
  fail_operands(symbol_text(symbol), left, right);
}

Value negate(const Value& value) {
  if (value.is_integral()) return integer_operator(Operator::kSubtract, 0, value.as_int());
  if (value.is_number()) return Value::real(-value.as_double());
  if (value.is_undefined()) fail_row("{}", value.undefined_hint());
  fail_row("expected a number to negate, got '{}'", type_name(value));
}

}  // namespace lockstep::text::jinja
