// Sets of real numbers that consist of intervals and points.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <vector>

#include "reward/math_value.h"
#include "reward/work_budget.h"

namespace lockstep::reward {

/// A place between numbers: just before or just after `value`, or an end of the line.
struct Cut {
  MathPtr value;
  bool is_after = false;
};

/// Disjoint intervals from left to right: where each begins and ends, in turn. (0, 1] begins after
/// 0 and ends after 1.
using RealSet = std::vector<Cut>;

/// The set that intervals, finite sets, their unions, intersections and differences, inequalities
/// in one name, and conditions (an intersection of inequalities) describe. Nothing for other trees,
/// and where the order of ends is not known.
///
/// Throws UndefinedValue, TooMuchWork.
std::optional<RealSet> real_set_of(const Math& value, WorkBudget& work);

/// Throws UndefinedValue, TooMuchWork.
bool is_same_set(const RealSet& left, const RealSet& right, WorkBudget& work);

bool is_whole_line(const RealSet& set);

/// "<" for ">" and the like; other signs as they are.
std::string flipped(const std::string& sign);

}  // namespace lockstep::reward
