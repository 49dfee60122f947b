// Whether two answers are the same.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "reward/math_value.h"

namespace lockstep::reward {

/// Whether `answer` says what `gold` says. Not symmetric: x = 5 answers 5, and 5 answers x = 5.
///
/// Numerics: integers and fractions are compared exactly; a decimal literal and anything but an
/// integer after rounding both to six places; formulas at pseudo-random values of their symbols,
/// relative difference <= 1e-11. Source: math_verify 0.9, grader.py (verify, strict), with
/// evaluation in place of sympy's simplify.
bool is_same_answer(const Math& gold, const Math& answer);

}  // namespace lockstep::reward
