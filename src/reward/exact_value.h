// Exact values of formulas.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string_view>

#include "reward/math_value.h"
#include "reward/work_budget.h"

namespace lockstep::reward {

/// Thrown for a formula that has no value, such as 1/0 or 0^0. It never leaves math_compare.cpp.
struct UndefinedValue {};

/// Numbers in place of the symbols of a formula, the same for each symbol in all formulas.
struct Point {
  uint64_t seed = 0;
  /// Small positive integers, for formulas with factorials, instead of fractions of both signs.
  bool is_integer = false;

  Rational operator[](std::string_view symbol) const;
};

/// The value of a formula if it is a fraction: nothing for roots that stay, π, logarithms and the
/// like, for symbols without a `point`, and for values of more than half a million bits.
///
/// Throws UndefinedValue, TooMuchWork.
std::optional<Rational> exact_value(const Math& value,
                                    WorkBudget& work,
                                    const Point* point = nullptr);

/// The number that a formula is, or the formula itself, whose size is booked then. Throws what
/// exact_value does.
MathPtr simplified(const MathPtr& value, WorkBudget& work);

/// The whole number nearest to `value`, halves to the even one.
Integer nearest_integer(const Rational& value);
Integer floor_of(const Rational& value);

}  // namespace lockstep::reward
