// The strategies of the comparison, in their order.
// SPDX-License-Identifier: Apache-2.0
#include "reward/math_compare.h"

#include <algorithm>

#include "reward/answer_comparer.h"
#include "reward/complex_value.h"
#include "reward/exact_value.h"
#include "reward/math_arithmetic.h"
#include "reward/real_set.h"
#include "reward/real_value.h"

namespace lockstep::reward {

bool AnswerComparer::is_same(const MathPtr& gold, const MathPtr& answer) {
  const auto any_is_same = [&](const std::vector<MathPtr>& golds,
                               const std::vector<MathPtr>& answers) {
    return std::any_of(golds.begin(), golds.end(), [&](const MathPtr& one) {
      return std::any_of(answers.begin(), answers.end(),
                         [&](const MathPtr& other) { return are_equal_unwrapped(one, other); });
    });
  };
  const bool is_gold_equation = is_equation(*gold), is_answer_equation = is_equation(*answer);
  if (const auto are_same = are_same_assignments(*gold, *answer)) return *are_same;
  if (is_answer_equation && !is_gold_equation) return any_is_same({gold}, values_of(*answer));
  if (is_gold_equation && !is_answer_equation)
    return any_is_same(values_that_meet(*gold), {answer});
  return are_equal_unwrapped(is_gold_equation ? shortened(gold) : gold,
                             is_answer_equation ? shortened(answer) : answer);
}

namespace {

bool has_relations(const Math& value) {
  return contains(value, [](const Math& part) { return part.kind == MathKind::kRelation; });
}

}  // namespace

bool AnswerComparer::is_all_reals(const Math& value) {
  const auto set = real_set_of(value, work_);
  return set && is_whole_line(*set);
}

bool AnswerComparer::are_equal_unwrapped(const MathPtr& gold, const MathPtr& answer) {
  const bool gold_relates = gold->kind == MathKind::kRelation;
  const bool answer_relates = answer->kind == MathKind::kRelation;
  if (gold_relates && answer_relates) return are_equal_relations(*gold, *answer);
  if (gold_relates) return is_collection(*answer) && are_same_sets(*gold, *answer);
  if (answer_relates) {
    // For a set, math_verify wants a set: an inequality may only repeat the question. That all
    // reals are -∞ < x < ∞ says nothing less than ℝ.
    if (!is_collection(*gold) || is_equation(*answer)) return false;
    return (has_relations(*gold) || is_all_reals(*answer)) && are_same_sets(*gold, *answer);
  }
  if (is_collection(*gold) || is_collection(*answer)) return are_equal_collections(gold, answer);
  const bool gold_is_matrix = gold->kind == MathKind::kMatrix;
  if (gold_is_matrix || answer->kind == MathKind::kMatrix)
    return gold->kind == answer->kind && gold->name == answer->name &&
           are_same_elements(gold->children, answer->children, /*in_order=*/true);
  return are_equal_terms(gold, answer);
}

bool is_same_answer(const MathPtr& gold, const MathPtr& answer, WorkBudget& work) {
  try {
    return AnswerComparer(work).is_same(do_arithmetic(gold, work), do_arithmetic(answer, work));
  } catch (const UndefinedValue&) {
    return false;
  }
}

namespace {

/// Throws UndefinedValue for a number that has no value.
void check_number(const MathPtr& value, WorkBudget& work) {
  const MathPtr zero = make_integer(0);
  try {
    compare_values(*value, *zero, work);
  } catch (const UndefinedValue&) {
    const auto parts = complex_parts(value, work);  // √-4 is no real number
    if (!parts) throw;
    compare_values(*parts->real, *zero, work);
    compare_values(*parts->imaginary, *zero, work);
  }
}

/// The same for the parts of a list, an interval, a matrix or a relation.
void check_parts(const MathPtr& value, WorkBudget& work) {
  const bool has_parts = value->kind >= MathKind::kSet;
  if (has_parts) {
    for (const MathPtr& child : value->children) check_parts(child, work);
    return;
  }
  const bool is_number = !contains(*value, [](const Math& part) {
    return part.kind >= MathKind::kSet || part.kind == MathKind::kSymbol;
  });
  if (is_number && sign_of_infinity(*value) == 0 && !value->is_function("ratio"))
    check_number(value, work);
}

}  // namespace

bool has_value(const MathPtr& value, WorkBudget& work) {
  try {
    check_parts(do_arithmetic(value, work), work);
    return true;
  } catch (const UndefinedValue&) {
    return false;
  }
}

}  // namespace lockstep::reward
