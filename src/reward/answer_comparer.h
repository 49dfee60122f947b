// The comparison of two answers, for compare_*.cpp and math_compare.cpp alone.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "reward/math_value.h"
#include "reward/work_budget.h"

namespace lockstep::reward {

/// The strategies of math_verify's grader: relations (compare_relations.cpp), sets
/// (compare_collections.cpp), words and numbers (compare_scalars.cpp).
///
/// Every method throws UndefinedValue where a part of an answer has no value, and TooMuchWork.
class AnswerComparer {
 public:
  explicit AnswerComparer(WorkBudget& work) : work_(work) {}

  /// Not symmetric: x = 5 answers 5, and 5 answers x = 5.
  bool is_same(const MathPtr& gold, const MathPtr& answer);

 private:
  // Relations
  bool are_equal_relations(const Math& gold, const Math& answer);
  bool are_written_alike(const Math& gold, const Math& answer);
  bool are_equal_pairs(const Math& gold, const Math& answer);
  bool are_proportional(const MathPtr& gold, const MathPtr& answer, bool needs_positive);
  /// Nothing unless both give values to the same names.
  std::optional<bool> are_same_assignments(const Math& gold, const Math& answer);
  /// What an equation says that something is: the last side of a chain, or the exact one where
  /// others are rounded. Behind it stand sides that round it rightly.
  std::vector<MathPtr> values_of(const Math& equation);
  bool is_rounding(const Math& rounded, const Math& exact);
  std::vector<MathPtr> values_that_meet(const Math& equation);
  MathPtr shortened(const MathPtr& equation);

  // Sets, tuples, intervals, matrices
  bool are_equal_collections(const MathPtr& gold, const MathPtr& answer);
  bool are_equal_by_elements(const Math& gold, const Math& answer);
  bool are_same_elements(const std::vector<MathPtr>& gold,
                         const std::vector<MathPtr>& answer,
                         bool in_order);
  std::vector<MathPtr> distinct(const std::vector<MathPtr>& items);
  bool are_same_sets(const Math& gold, const Math& answer);
  bool is_all_reals(const Math& value);

  // Words and numbers
  bool are_equal_terms(const MathPtr& gold, const MathPtr& answer);
  bool are_equal_scalars(const Math& gold, const Math& answer);
  std::optional<bool> are_equal_complex(const MathPtr& gold, const MathPtr& answer);
  bool are_equal_rounded(const Math& gold, const Math& answer);
  bool are_equal_at_points(const Math& gold, const Math& answer);
  bool are_equal_ratios(const Math& gold, const Math& answer);
  bool are_equal_residues(const Math& gold, const Math& answer);

  bool are_equal_unwrapped(const MathPtr& gold, const MathPtr& answer);

  WorkBudget& work_;
};

/// Formulas with names are compared at so many values of them, and equal if they are so at as many
/// as are needed where both have a value.
inline constexpr uint64_t kNumPoints = 12;
inline constexpr int kNumNeeded = 3;

bool is_collection(const Math& value);
/// A chain of = and ≈.
bool is_equation(const Math& value);

}  // namespace lockstep::reward
