// Mathematical answers as trees: numbers, symbols, formulas, sets, intervals, relations.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <gmpxx.h>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep::reward {

/// Fractions of any size, in lowest terms with a positive denominator.
using Rational = mpq_class;
using Integer = mpz_class;

enum class MathKind : uint8_t {
  /// number; decimal_places
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
  /// children: the values that a sign ± stands for
  kAlternatives,
  /// children
  kTuple,
  /// children: two; is_left_open, is_right_open
  kInterval,
  /// children: sets and intervals
  kUnion,
  kIntersection,
  /// children: two
  kDifference,
  /// children row by row; name: the number of rows
  kMatrix,
  /// children, one more than operators: "=", "~" (approximately), "<", "<=", ">", ">=", "!=", and
  /// names of other relations ("mod", "perp", …)
  kRelation,
};

struct Math;
using MathPtr = std::shared_ptr<const Math>;

struct Math {
  MathKind kind = MathKind::kNumber;
  std::string name;
  /// Has a value if kind is kNumber.
  std::optional<Rational> number;
  /// Digits behind the point of a number that was written with one: it is compared rounded.
  std::optional<int> decimal_places;
  bool is_left_open = false, is_right_open = false;
  std::vector<MathPtr> children;
  std::vector<std::string> operators;

  bool is_number() const { return kind == MathKind::kNumber; }
  bool is_function(std::string_view function) const {
    return kind == MathKind::kFunction && name == function;
  }
};

MathPtr make_math(MathKind kind, std::vector<MathPtr> children = {}, std::string name = {});
MathPtr make_function(std::string name, std::vector<MathPtr> children);
MathPtr make_integer(int64_t value);
MathPtr make_number(Rational value);
MathPtr make_interval(MathPtr left, MathPtr right, bool is_left_open, bool is_right_open);
/// The real numbers.
MathPtr make_reals();
/// A literal: digits with at most one point, a sign in front and a power of ten ("e-5") behind.
/// Null for other texts, and for numbers of more than 20,000 digits.
MathPtr parse_number(std::string_view text);
MathPtr negate(const MathPtr& value);
MathPtr reciprocal(const MathPtr& value);

/// Whether any part of a tree satisfies `predicate(const Math&)`.
template <class Predicate>
bool contains(const Math& value, const Predicate& predicate) {
  if (predicate(value)) return true;
  for (const MathPtr& child : value.children) {
    if (contains(*child, predicate)) return true;
  }
  return false;
}

bool has_symbols(const Math& value);
/// +1 for ∞, -1 for -∞, 0 for everything else.
int sign_of_infinity(const Math& value);
/// Whether two trees are the same part by part; the order of terms and factors does not count.
bool is_same_tree(const Math& left, const Math& right);

}  // namespace lockstep::reward
