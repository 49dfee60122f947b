// Whether two answers are the same.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "reward/math_value.h"
#include "reward/work_budget.h"

namespace lockstep::reward {

/// Whether `answer` says what `gold` says. Not symmetric: x = 5 answers 5, and 5 answers x = 5.
/// False where a part of either has no value (1/0).
///
/// Numerics: real_value.h; a decimal literal and anything but an integer after rounding both to six
/// places, or to four digits where six places hold fewer; formulas at twelve values of their
/// symbols. Source: math_verify 0.9, grader.py (verify, strict), with evaluation in place of
/// sympy's simplify.
///
/// Throws TooMuchWork.
bool is_same_answer(const MathPtr& gold, const MathPtr& answer, WorkBudget& work);

/// Whether all numbers of an answer have a value; formulas with symbols count as having one, and so
/// do times (9:00).
/// Throws TooMuchWork.
bool has_value(const MathPtr& value, WorkBudget& work);

}  // namespace lockstep::reward
