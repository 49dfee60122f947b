// Comparing the values of formulas: exactly where they are fractions, else with as many digits as
// it takes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "reward/exact_value.h"
#include "reward/math_value.h"
#include "reward/work_budget.h"

namespace lockstep::reward {

enum class Comparison : uint8_t {
  kLess,
  kEqual,
  kGreater,
  /// They differ, and which is larger is not known.
  kUnequal,
  /// Nothing is known within the bounds of work.
  kUnknown,
};

/// Compares two real values, with the numbers of `point` for symbols.
///
/// Numerics: fractions exactly; others by intervals that hold them. Two are equal if their
/// intervals overlap when both are narrower than 2^-b, b = 128 + twice the bits of all numbers in
/// both formulas + 32 for each root, function and constant (at most 32,768), relative to numbers
/// below one in size. What differs by less than that counts as equal: for sums and products of
/// square roots that would take a difference far below the known separation of such numbers in any
/// answer that a person writes. Integers too large to be written out (2^(10^9)) are compared modulo
/// two primes of 61 bits and by size.
///
/// Throws UndefinedValue where one of them has no value, TooMuchWork.
Comparison compare_values(const Math& left,
                          const Math& right,
                          WorkBudget& work,
                          const Point* point = nullptr);

inline bool is_equal_value(const Math& left,
                           const Math& right,
                           WorkBudget& work,
                           const Point* point = nullptr) {
  return compare_values(left, right, work, point) == Comparison::kEqual;
}

/// value · 10^places, rounded to an integer, or nothing where that cannot be told. Throws
/// UndefinedValue, TooMuchWork.
std::optional<Integer> rounded_value(const Math& value, int places, WorkBudget& work);

/// The number of decimal digits in front of the point, negative for zeros behind it: 2 for 42, -2
/// for 0.0042. Nothing for zero and for what cannot be told. Throws UndefinedValue, TooMuchWork.
std::optional<int> decimal_exponent(const Math& value, WorkBudget& work);

}  // namespace lockstep::reward
