// Values of formulas modulo a prime, for integers and fractions that are too large to be written.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "reward/exact_value.h"
#include "reward/math_value.h"
#include "reward/work_budget.h"

namespace lockstep::reward {

/// Two different fractions agree modulo both of these by a chance of 2^-120.
inline constexpr uint64_t kResiduePrimes[] = {2305843009213693951ULL, 2305843009213693921ULL};

/// The value of a formula of sums, products, integer powers and factorials modulo `prime`. Nothing
/// for other formulas, and where a denominator is a multiple of the prime.
///
/// Throws UndefinedValue, TooMuchWork.
std::optional<uint64_t> residue_of(const Math& value,
                                   uint64_t prime,
                                   WorkBudget& work,
                                   const Point* point = nullptr);

}  // namespace lockstep::reward
