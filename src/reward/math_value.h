// Mathematical answers as trees: numbers, symbols, formulas, sets, intervals, relations.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep::reward {

__extension__ typedef __int128 WideInt;

/// A fraction in lowest terms; `den` > 0. Every operation gives nothing where 128 bits do not
/// suffice.
struct Rational {
  WideInt num = 0;
  WideInt den = 1;

  static std::optional<Rational> make(WideInt num, WideInt den);
  bool operator==(const Rational& other) const { return num == other.num && den == other.den; }
  bool is_integer() const { return den == 1; }
};
std::optional<Rational> add(const Rational& left, const Rational& right);
std::optional<Rational> multiply(const Rational& left, const Rational& right);
std::optional<Rational> power(const Rational& base, const Rational& exponent);

enum class MathKind : uint8_t {
  /// number (or digits, where it does not fit); is_decimal
  kNumber,
  /// name: a letter, a word, or the text of something opaque
  kSymbol,
  kPi,
  kEuler,
  kInfinity,
  /// children
  kAdd,
  /// children
  kMultiply,
  /// children: base, exponent
  kPower,
  /// name, children: sin, log, abs, factorial, …
  kFunction,
  /// children: the number before the sign
  kPercent,
  /// children, without order
  kSet,
  /// children
  kTuple,
  /// children: two; is_left_open, is_right_open
  kInterval,
  /// children: sets and intervals
  kUnion,
  /// children row by row; name: its shape
  kMatrix,
  /// children, one more than operators: "=", "<", "<=", ">", ">=", "!="
  kRelation,
};

struct Math;
using MathPtr = std::shared_ptr<const Math>;

struct Math {
  MathKind kind = MathKind::kNumber;
  std::string name;
  std::optional<Rational> number;
  /// Of a number: written with a point, so that it is compared rounded.
  bool is_decimal = false;
  bool is_left_open = false, is_right_open = false;
  std::vector<MathPtr> children;
  std::vector<std::string> operators;
};

MathPtr make_math(MathKind kind, std::vector<MathPtr> children = {}, std::string name = {});
MathPtr make_integer(int64_t value);
/// A literal: digits with at most one point. Keeps its digits as a name where 128 bits do not
/// suffice.
MathPtr make_number(std::string_view digits);
MathPtr negate(const MathPtr& value);

/// The exact value of a formula without symbols and roots that stay, or nothing.
std::optional<Rational> exact_value(const Math& value);
/// The value with pseudo-random numbers for its symbols, the same in every formula for one `seed`.
/// NaN where undefined.
long double approximate_value(const Math& value, uint64_t seed);
bool has_symbols(const Math& value);

}  // namespace lockstep::reward
