// The arithmetic of matrices, vectors and values with two signs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "reward/math_value.h"
#include "reward/work_budget.h"

namespace lockstep::reward {

/// Does what arithmetic there is with things that are no numbers, so that what is left can be
/// compared part by part:
///
/// - sums, multiples, products, powers, inverses, transposes and determinants of matrices;
/// - sums, multiples and scalar products of vectors, which are written as pairs and tuples;
/// - a formula with ± becomes the set of its values;
/// - sums and products over a range of integers.
///
/// What does not fit together stays as it is. Throws TooMuchWork, UndefinedValue.
MathPtr do_arithmetic(const MathPtr& value, WorkBudget& work);

}  // namespace lockstep::reward
