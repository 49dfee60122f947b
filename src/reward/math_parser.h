// From written mathematics to trees.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string_view>

#include "reward/math_value.h"

namespace lockstep::reward {

/// Bytes. An answer that is longer is no formula that a person would write.
inline constexpr size_t kLongestFormula = 4096;

/// Parses normalised LaTeX: numbers with thousands separators, fractions, mixed numbers, percent,
/// ratios, powers, roots, functions, text, sets, tuples, intervals and their unions, matrices,
/// equations, congruences and inequalities. Null for anything else.
///
/// The left sides of an equation may be anything: one that is not understood is a symbol with its
/// text as name.
MathPtr parse_latex(std::string_view latex);

/// Parses a plain expression of digits, + - * / ^ and brackets. Null for anything else.
MathPtr parse_plain(std::string_view expression);

/// A word in small letters without the brackets around a choice: "(A)" is a. "all real numbers" are
/// the reals. Null for an empty one.
MathPtr parse_word(std::string_view text);

}  // namespace lockstep::reward
