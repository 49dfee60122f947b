// Exact fractions of 128 bits, and evaluation of formulas.
// SPDX-License-Identifier: Apache-2.0
#include "reward/math_value.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace lockstep::reward {
namespace {

constexpr long double kNan = std::numeric_limits<long double>::quiet_NaN();
constexpr long double kPi = 3.141592653589793238462643383279502884L;

WideInt gcd(WideInt left, WideInt right) {
  while (right != 0) left = std::exchange(right, left % right);
  return left < 0 ? -left : left;
}

std::optional<WideInt> times(WideInt left, WideInt right) {
  WideInt result = 0;
  if (__builtin_mul_overflow(left, right, &result)) return std::nullopt;
  return result;
}

/// The integer whose square is `value`, or nothing.
std::optional<WideInt> square_root(WideInt value) {
  if (value < 0) return std::nullopt;
  auto root = static_cast<WideInt>(std::sqrt(static_cast<long double>(value)));
  for (WideInt candidate = std::max<WideInt>(root - 1, 0); candidate <= root + 1; ++candidate) {
    if (times(candidate, candidate) == value) return candidate;
  }
  return std::nullopt;
}

std::optional<Rational> integer_power(Rational base, WideInt exponent) {
  if (exponent < 0) {
    const std::optional<Rational> inverse = Rational::make(base.den, base.num);
    return inverse ? integer_power(*inverse, -exponent) : std::nullopt;
  }
  std::optional<Rational> result = Rational{1, 1};
  constexpr WideInt kMost = 128;  // a larger power of anything but -1, 0, 1 does not fit
  const bool is_unit = base.den == 1 && base.num >= -1 && base.num <= 1;
  if (is_unit && exponent > kMost) exponent = kMost + exponent % 2;
  if (exponent > kMost + 1) return std::nullopt;
  for (WideInt i = 0; i < exponent && result; ++i) result = multiply(*result, base);
  return result;
}

std::optional<Rational> exact_function(const Math& value) {
  std::vector<Rational> arguments;
  for (const MathPtr& child : value.children) {
    const std::optional<Rational> argument = exact_value(*child);
    if (!argument) return std::nullopt;
    arguments.push_back(*argument);
  }
  const Rational& first = arguments.at(0);
  if (value.name == "abs") return Rational{first.num < 0 ? -first.num : first.num, first.den};
  if (value.name == "floor" || value.name == "ceil") {
    const WideInt quotient = first.num / first.den;
    const bool is_inexact = first.num % first.den != 0;
    const bool goes_down = value.name == "floor" && first.num < 0;
    const bool goes_up = value.name == "ceil" && first.num > 0;
    return Rational{quotient + (is_inexact ? (goes_up ? 1 : goes_down ? -1 : 0) : 0), 1};
  }
  if (value.name == "factorial" && first.is_integer() && first.num >= 0 && first.num < 40) {
    std::optional<Rational> result = Rational{1, 1};
    for (WideInt i = 2; i <= first.num && result; ++i) result = multiply(*result, {i, 1});
    return result;
  }
  if (value.name == "binomial" && first.is_integer() && arguments[1].is_integer()) {
    const WideInt n = first.num, k = arguments[1].num;
    if (n < 0 || n > 1000 || k < 0) return std::nullopt;
    std::optional<Rational> result = Rational{k > n ? 0 : 1, 1};
    for (WideInt i = 1; i <= std::min(k, n - k) && result; ++i)
      result = multiply(*result, {n - i + 1, i});
    return result;
  }
  return std::nullopt;
}

/// A number between 1/2 and 3 of either sign, from a hash of the name (FNV-1a, then a mixer).
long double symbol_value(std::string_view name, uint64_t seed) {
  uint64_t hash = 0xcbf29ce484222325ULL ^ (seed * 0x9E3779B97F4A7C15ULL);
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  hash ^= hash >> 29;
  hash *= 0xBF58476D1CE4E5B9ULL;
  hash ^= hash >> 32;
  const long double size = 0.5L + 2.5L * static_cast<long double>(hash >> 12) / 0x1p52L;
  return (hash & 1) != 0 ? size : -size;
}

long double approximate_power(long double base, const Math& exponent, uint64_t seed) {
  // An odd root of a negative number stays undefined, as the principal value is complex.
  return std::pow(base, approximate_value(exponent, seed));
}

long double approximate_function(const Math& value, uint64_t seed) {
  const long double x = approximate_value(*value.children.at(0), seed);
  const std::string& name = value.name;
  if (name == "abs") return std::fabs(x);
  if (name == "floor") return std::floor(x);
  if (name == "ceil") return std::ceil(x);
  if (name == "factorial") return x < 0 ? kNan : std::tgamma(x + 1);
  if (name == "sin") return std::sin(x);
  if (name == "cos") return std::cos(x);
  if (name == "tan") return std::tan(x);
  if (name == "cot") return 1 / std::tan(x);
  if (name == "sec") return 1 / std::cos(x);
  if (name == "csc") return 1 / std::sin(x);
  if (name == "arcsin") return std::asin(x);
  if (name == "arccos") return std::acos(x);
  if (name == "arctan") return std::atan(x);
  if (name == "sinh") return std::sinh(x);
  if (name == "cosh") return std::cosh(x);
  if (name == "tanh") return std::tanh(x);
  if (name == "exp") return std::exp(x);
  if (name == "log") {
    const long double base =
        value.children.size() > 1 ? approximate_value(*value.children[1], seed) : std::exp(1.0L);
    return std::log(x) / std::log(base);
  }
  if (name == "binomial") {
    const long double k = approximate_value(*value.children.at(1), seed);
    return std::tgamma(x + 1) / (std::tgamma(k + 1) * std::tgamma(x - k + 1));
  }
  return kNan;
}

}  // namespace

std::optional<Rational> Rational::make(WideInt num, WideInt den) {
  if (den == 0) return std::nullopt;
  const WideInt divisor = std::max<WideInt>(gcd(num, den), 1);
  num /= divisor;
  den /= divisor;
  if (den < 0) {
    num = -num;
    den = -den;
  }
  return Rational{num, den};
}

std::optional<Rational> add(const Rational& left, const Rational& right) {
  const auto a = times(left.num, right.den), b = times(right.num, left.den),
             den = times(left.den, right.den);
  WideInt num = 0;
  if (!a || !b || !den || __builtin_add_overflow(*a, *b, &num)) return std::nullopt;
  return Rational::make(num, *den);
}

std::optional<Rational> multiply(const Rational& left, const Rational& right) {
  // Across first, so that factors that cancel do not overflow.
  const auto first = Rational::make(left.num, right.den),
             second = Rational::make(right.num, left.den);
  if (!first || !second) return std::nullopt;
  const auto num = times(first->num, second->num), den = times(first->den, second->den);
  if (!num || !den) return std::nullopt;
  return Rational{*num, *den};
}

std::optional<Rational> power(const Rational& base, const Rational& exponent) {
  if (exponent.is_integer()) {
    if (base.num == 0 && exponent.num < 0) return std::nullopt;
    return integer_power(base, exponent.num);
  }
  if (exponent.den != 2) return std::nullopt;
  const auto num = square_root(base.num), den = square_root(base.den);
  if (!num || !den) return std::nullopt;
  return power(Rational{*num, *den}, Rational{exponent.num, 1});
}

MathPtr make_math(MathKind kind, std::vector<MathPtr> children, std::string name) {
  auto result = std::make_shared<Math>();
  result->kind = kind;
  result->children = std::move(children);
  result->name = std::move(name);
  return result;
}

MathPtr make_integer(int64_t value) {
  auto result = std::make_shared<Math>();
  result->number = Rational{value, 1};
  return result;
}

MathPtr make_number(std::string_view digits) {
  auto result = std::make_shared<Math>();
  result->is_decimal = digits.find('.') != digits.npos;
  std::optional<WideInt> num = 0, den = 1;
  bool behind_point = false;
  for (const char c : digits) {
    if (c == '.') {
      behind_point = true;
      continue;
    }
    if (num) num = times(*num, 10);
    if (num && __builtin_add_overflow(*num, WideInt{c - '0'}, &*num)) num.reset();
    if (behind_point && den) den = times(*den, 10);
  }
  if (num && den) {
    result->number = Rational::make(*num, *den);
  } else {
    result->kind = MathKind::kSymbol;  // compared by its digits
    result->name = std::string(digits);
  }
  return result;
}

MathPtr negate(const MathPtr& value) {
  if (value->kind == MathKind::kNumber) {
    auto result = std::make_shared<Math>(*value);
    result->number->num = -result->number->num;
    return result;
  }
  return make_math(MathKind::kMultiply, {make_integer(-1), value});
}

std::optional<Rational> exact_value(const Math& value) {
  switch (value.kind) {
    case MathKind::kNumber:
      return value.number;
    case MathKind::kPercent: {
      const std::optional<Rational> number = exact_value(*value.children[0]);
      return number ? multiply(*number, {1, 100}) : std::nullopt;
    }
    case MathKind::kAdd:
    case MathKind::kMultiply: {
      const bool is_sum = value.kind == MathKind::kAdd;
      std::optional<Rational> result = Rational{is_sum ? 0 : 1, 1};
      for (const MathPtr& child : value.children) {
        const std::optional<Rational> part = exact_value(*child);
        if (!part) return std::nullopt;
        result = is_sum ? add(*result, *part) : multiply(*result, *part);
        if (!result) return std::nullopt;
      }
      return result;
    }
    case MathKind::kPower: {
      const std::optional<Rational> base = exact_value(*value.children[0]),
                                    exponent = exact_value(*value.children[1]);
      return base && exponent ? power(*base, *exponent) : std::nullopt;
    }
    case MathKind::kFunction:
      return exact_function(value);
    default:
      return std::nullopt;
  }
}

long double approximate_value(const Math& value, uint64_t seed) {
  switch (value.kind) {
    case MathKind::kNumber:
      return static_cast<long double>(value.number->num) /
             static_cast<long double>(value.number->den);
    case MathKind::kSymbol:
      return symbol_value(value.name, seed);
    case MathKind::kPi:
      return kPi;
    case MathKind::kEuler:
      return std::exp(1.0L);
    case MathKind::kInfinity:
      return std::numeric_limits<long double>::infinity();
    case MathKind::kPercent:
      return approximate_value(*value.children[0], seed) / 100;
    case MathKind::kAdd: {
      long double result = 0;
      for (const MathPtr& child : value.children) result += approximate_value(*child, seed);
      return result;
    }
    case MathKind::kMultiply: {
      long double result = 1;
      for (const MathPtr& child : value.children) result *= approximate_value(*child, seed);
      return result;
    }
    case MathKind::kPower:
      return approximate_power(approximate_value(*value.children[0], seed), *value.children[1],
                               seed);
    case MathKind::kFunction:
      return approximate_function(value, seed);
    default:
      return kNan;
  }
}

bool has_symbols(const Math& value) {
  return value.kind == MathKind::kSymbol ||
         std::any_of(value.children.begin(), value.children.end(),
                     [](const MathPtr& child) { return has_symbols(*child); });
}

}  // namespace lockstep::reward
