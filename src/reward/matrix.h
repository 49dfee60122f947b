// Matrices of formulas.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "reward/exact_value.h"
#include "reward/math_value.h"
#include "reward/work_budget.h"

namespace lockstep::reward {

// All matrices here are of kind kMatrix. A null result means that the shapes do not fit, or that
// the entries are no numbers where numbers are needed. Throws TooMuchWork.

MathPtr add_matrices(std::span<const MathPtr> terms, WorkBudget& work);
MathPtr multiply_matrices(std::span<const MathPtr> factors, WorkBudget& work);
MathPtr transpose(const MathPtr& matrix);
/// Whole exponents of at least -1 of a square matrix; -1 is the inverse of a matrix of fractions.
/// Throws UndefinedValue where there is no inverse.
MathPtr matrix_power(const MathPtr& matrix, const Rational& exponent, WorkBudget& work);
/// A formula, for matrices of at most six rows.
MathPtr determinant(const MathPtr& matrix, WorkBudget& work);

}  // namespace lockstep::reward
