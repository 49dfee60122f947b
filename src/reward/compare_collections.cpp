// Sets, tuples and intervals.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "reward/answer_comparer.h"
#include "reward/real_set.h"

namespace lockstep::reward {

bool is_collection(const Math& value) {
  return value.kind == MathKind::kSet || value.kind == MathKind::kTuple ||
         value.kind == MathKind::kInterval || value.kind == MathKind::kUnion ||
         value.kind == MathKind::kIntersection || value.kind == MathKind::kDifference;
}

bool AnswerComparer::are_same_elements(const std::vector<MathPtr>& gold,
                                       const std::vector<MathPtr>& answer,
                                       bool in_order) {
  if (gold.size() != answer.size()) return false;
  std::vector<bool> is_used(answer.size(), false);
  for (size_t i = 0; i < gold.size(); ++i) {
    bool found = false;
    for (size_t j = in_order ? i : 0; j < (in_order ? i + 1 : answer.size()) && !found; ++j) {
      if (is_used[j] || !is_same(gold[i], answer[j])) continue;
      is_used[j] = found = true;
    }
    if (!found) return false;
  }
  return true;
}

/// A set without the elements that repeat earlier ones.
std::vector<MathPtr> AnswerComparer::distinct(const std::vector<MathPtr>& items) {
  std::vector<MathPtr> result;
  for (const MathPtr& item : items) {
    const bool is_known = std::any_of(result.begin(), result.end(),
                                      [&](const MathPtr& known) { return is_same(known, item); });
    if (!is_known) result.push_back(item);
  }
  return result;
}

bool AnswerComparer::are_equal_collections(const MathPtr& gold, const MathPtr& answer) {
  // "x < 1 or x > 3" are inequalities, and for a set a set is wanted.
  const auto are_relations = [](const Math& list) {
    return list.kind == MathKind::kSet && !list.children.empty() &&
           std::all_of(list.children.begin(), list.children.end(), [](const MathPtr& item) {
             return item->kind == MathKind::kRelation && !is_equation(*item);
           });
  };
  if (are_relations(*answer) && is_collection(*gold) && gold->kind != MathKind::kSet) {
    const bool may_relate =
        contains(*gold, [](const Math& part) { return part.kind == MathKind::kRelation; });
    if (!may_relate && !is_all_reals(*answer)) return false;
  }
  const auto as_set = [](const MathPtr& value) {
    return is_collection(*value) ? value : make_math(MathKind::kSet, {value});
  };
  const MathPtr a = as_set(gold), b = as_set(answer);
  return are_equal_by_elements(*a, *b) || are_same_sets(*a, *b);
}

bool AnswerComparer::are_equal_by_elements(const Math& gold, const Math& answer) {
  const bool gold_is_interval = gold.kind == MathKind::kInterval;
  const bool answer_is_interval = answer.kind == MathKind::kInterval;
  const auto is_end_open = [](const MathPtr& end, bool is_open) {
    return is_open || sign_of_infinity(*end) != 0;
  };
  if (gold_is_interval && answer_is_interval)
    return is_end_open(gold.children[0], gold.is_left_open) ==
               is_end_open(answer.children[0], answer.is_left_open) &&
           is_end_open(gold.children[1], gold.is_right_open) ==
               is_end_open(answer.children[1], answer.is_right_open) &&
           are_same_elements(gold.children, answer.children, /*in_order=*/true);
  const auto is_operation = [](const Math& value) {
    return value.kind == MathKind::kUnion || value.kind == MathKind::kIntersection ||
           value.kind == MathKind::kDifference;
  };
  if (is_operation(gold) || is_operation(answer))
    return gold.kind == answer.kind &&
           are_same_elements(gold.children, answer.children,
                             /*in_order=*/gold.kind == MathKind::kDifference);
  // (1, 2) reads as an open interval, and may be meant as a pair.
  const auto is_open = [](const Math& value) { return value.is_left_open && value.is_right_open; };
  if (gold_is_interval || answer_is_interval) {
    const Math& interval = gold_is_interval ? gold : answer;
    const Math& other = gold_is_interval ? answer : gold;
    const bool is_pair = other.kind == MathKind::kTuple || other.kind == MathKind::kSet;
    return is_pair && is_open(interval) &&
           are_same_elements(gold.children, answer.children,
                             /*in_order=*/gold.kind != MathKind::kSet);
  }
  // The solution says whether the order counts.
  if (gold.kind == MathKind::kTuple) return are_same_elements(gold.children, answer.children, true);
  return are_same_elements(distinct(gold.children), distinct(answer.children), false);
}

bool AnswerComparer::are_same_sets(const Math& gold, const Math& answer) {
  // Sets of separate numbers have been compared by their elements.
  if (gold.kind == MathKind::kSet && answer.kind == MathKind::kSet) return false;
  const auto a = real_set_of(gold, work_);
  const auto b = a ? real_set_of(answer, work_) : std::nullopt;
  return b && is_same_set(*a, *b, work_);
}

}  // namespace lockstep::reward
