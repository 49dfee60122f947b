// Complex numbers in formulas, as two real formulas each.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "reward/math_value.h"
#include "reward/work_budget.h"

namespace lockstep::reward {

struct ComplexParts {
  MathPtr real, imaginary;
};

/// Whether the letter i stands in a formula.
bool has_imaginary_unit(const Math& value);

/// Whether the letter i stands where it can hardly be an index: in a sum, an absolute value, or an
/// exponent of e.
bool uses_imaginary_unit(const Math& value);

/// The real and the imaginary part of a formula whose letter i is the imaginary unit: sums,
/// products, whole powers, square roots of real numbers, powers of e, absolute values. Nothing for
/// other formulas, and where a name other than i stands in it.
///
/// Throws UndefinedValue, TooMuchWork.
std::optional<ComplexParts> complex_parts(const MathPtr& value, WorkBudget& work);

}  // namespace lockstep::reward
