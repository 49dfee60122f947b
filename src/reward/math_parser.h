// From written mathematics to trees.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "reward/math_value.h"

namespace lockstep::reward {

/// Parses normalised LaTeX: numbers with thousands separators, fractions, mixed numbers, percent,
/// powers, roots, functions, text, sets, tuples, intervals, unions, matrices, equations and
/// inequalities. Null for anything else.
MathPtr parse_latex(std::string_view latex);

/// Parses a plain expression of digits, + - * / ^ and brackets. Null for anything else.
MathPtr parse_plain(std::string_view expression);

}  // namespace lockstep::reward
