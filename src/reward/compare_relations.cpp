// Equations and inequalities.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <set>

#include "reward/answer_comparer.h"
#include "reward/exact_value.h"
#include "reward/real_set.h"
#include "reward/real_value.h"

namespace lockstep::reward {
namespace {

/// A name, or a formula of names: x, |AB|, cos B, f(x), (a, b), x + y.
bool has_only_names(const Math& value) {
  if (value.kind == MathKind::kSymbol) return true;
  if (value.kind == MathKind::kPower) {
    const Math& exponent = *value.children[1];
    const bool is_reciprocal = exponent.is_number() && *exponent.number == -1;
    return has_only_names(*value.children[0]) && (is_reciprocal || has_only_names(exponent));
  }
  return !value.children.empty() &&
         std::all_of(value.children.begin(), value.children.end(),
                     [](const MathPtr& child) { return has_only_names(*child); });
}

std::set<std::string> names_in(const Math& value) {
  std::set<std::string> names;
  contains(value, [&](const Math& part) {
    if (part.kind == MathKind::kSymbol) names.insert(part.name);
    return false;
  });
  return names;
}

/// How far a side is from being exact: 0 without decimals, 1 for a formula with some, 2 for a
/// decimal.
int roundness_of(const Math& value) {
  if (value.decimal_places) return 2;
  const bool is_sign = value.kind == MathKind::kMultiply && value.children.size() == 2 &&
                       value.children[0]->is_number() && *value.children[0]->number == -1;
  if (is_sign || value.kind == MathKind::kPercent || value.is_function("degrees"))
    return roundness_of(*value.children.back());
  return contains(value, [](const Math& part) { return part.decimal_places.has_value(); });
}

/// The formula with numbers for its symbols.
MathPtr at_point(const MathPtr& value, const Point& point, WorkBudget& work) {
  work.spend(16);
  if (value->kind == MathKind::kSymbol) return make_number(point[value->name]);
  if (value->children.empty()) return value;
  auto result = std::make_shared<Math>(*value);
  for (MathPtr& child : result->children) child = at_point(child, point, work);
  return result;
}

/// The sides of an equation that may be its value: names in front of it, or behind it, are not.
struct Sides {
  size_t begin = 0, end = 0;
};
Sides value_sides(const Math& equation) {
  const auto& sides = equation.children;
  Sides result{0, sides.size()};
  while (result.begin + 1 < result.end && has_only_names(*sides[result.begin])) ++result.begin;
  const bool is_turned = result.begin == 0 && !has_symbols(*sides[0]);
  while (is_turned && result.begin + 1 < result.end && has_only_names(*sides[result.end - 1]))
    --result.end;
  return result;
}

}  // namespace

bool is_equation(const Math& value) {
  return value.kind == MathKind::kRelation &&
         std::all_of(value.operators.begin(), value.operators.end(),
                     [](const std::string& sign) { return sign == "=" || sign == "~"; });
}

std::vector<MathPtr> AnswerComparer::values_of(const Math& equation) {
  const Sides sides = value_sides(equation);
  const auto& all = equation.children;
  size_t best = sides.end - 1;
  const bool are_constant = std::none_of(all.begin() + static_cast<ptrdiff_t>(sides.begin),
                                         all.begin() + static_cast<ptrdiff_t>(sides.end),
                                         [](const MathPtr& side) { return has_symbols(*side); });
  if (!are_constant) return {all[best]};
  for (size_t i = sides.end - 1; i-- > sides.begin;) {
    // Behind ≈ stands what is less exact, unless it is written exactly and the other is not.
    const bool is_approximated = equation.operators[i] == "~";
    const int here = roundness_of(*all[i]), there = roundness_of(*all[best]);
    if (here < there || (here == there && is_approximated)) best = i;
  }
  std::vector<MathPtr> values = {all[best]};
  for (size_t i = sides.begin; i < sides.end; ++i) {
    const bool is_behind = i > 0 && equation.operators[i - 1] == "~" && all[i]->is_number();
    const bool may_round = is_behind || (all[i]->is_number() && all[i]->decimal_places);
    if (i != best && may_round && is_rounding(*all[i], *all[best])) values.push_back(all[i]);
  }
  return values;
}

/// Whether two values differ by less than one in the last digit written.
bool AnswerComparer::is_rounding(const Math& rounded, const Math& exact) {
  Integer scale;
  mpz_ui_pow_ui(scale.get_mpz_t(), 10,
                static_cast<unsigned long>(rounded.decimal_places.value_or(0)));
  const Rational unit(1, scale);
  const auto is_above = [&](const Rational& bound) {
    const Comparison comparison = compare_values(exact, *make_number(bound), work_);
    return comparison == Comparison::kGreater;
  };
  const auto is_below = [&](const Rational& bound) {
    const Comparison comparison = compare_values(exact, *make_number(bound), work_);
    return comparison == Comparison::kLess;
  };
  return is_above(*rounded.number - unit) && is_below(*rounded.number + unit);
}

/// An equation is met by its value, whatever stands on its left, if that value is known; if it is a
/// formula of names, what is on the left must be a name for it.
std::vector<MathPtr> AnswerComparer::values_that_meet(const Math& equation) {
  std::vector<MathPtr> values = values_of(equation);
  const bool names_first = has_only_names(*equation.children.front());
  const bool is_named = names_first || has_only_names(*equation.children.back());
  const bool is_zero = values[0]->is_number() && *values[0]->number == 0;
  // x² - 3x + 2 = 0 is an equation to solve.
  const bool is_met = is_named || (!has_symbols(*values[0]) && !is_zero);
  return is_met ? values : std::vector<MathPtr>{};
}

/// x = y = 5 → x = 5.
MathPtr AnswerComparer::shortened(const MathPtr& equation) {
  if (!has_only_names(*equation->children.front())) return equation;
  auto result = std::make_shared<Math>(*equation);
  result->children = {equation->children.front(), values_of(*equation).front()};
  result->operators = {"="};
  return result;
}

bool AnswerComparer::are_equal_relations(const Math& gold, const Math& answer) {
  if (are_written_alike(gold, answer)) return true;
  // |x| < 2 and -2 < x < 2
  return names_in(gold) == names_in(answer) && are_same_sets(gold, answer);
}

bool AnswerComparer::are_written_alike(const Math& gold, const Math& answer) {
  if (gold.operators.size() != answer.operators.size()) return false;
  const auto are_same_sides = [&](const Math& other) {
    return gold.operators == other.operators &&
           are_same_elements(gold.children, other.children, /*in_order=*/true);
  };
  if (are_same_sides(answer)) return true;
  if (gold.operators.size() == 1) return are_equal_pairs(gold, answer);
  // 1 < x < 2 and 2 > x > 1
  Math turned = answer;
  std::reverse(turned.children.begin(), turned.children.end());
  std::reverse(turned.operators.begin(), turned.operators.end());
  for (std::string& sign : turned.operators) sign = flipped(sign);
  return are_same_sides(turned);
}

bool AnswerComparer::are_equal_pairs(const Math& gold, const Math& answer) {
  const auto has_difference = [](const Math& relation) {
    constexpr std::string_view kSigns = "=<>!";
    return kSigns.find(relation.operators[0][0]) != kSigns.npos &&
           std::none_of(relation.children.begin(), relation.children.end(),
                        [](const MathPtr& side) { return is_collection(*side); });
  };
  if (!has_difference(gold) || !has_difference(answer)) return false;
  const auto difference = [](const Math& relation) {
    return make_math(MathKind::kAdd, {relation.children[0], negate(relation.children[1])});
  };
  const MathPtr a = difference(gold), b = difference(answer);
  if (!has_symbols(*a) || !has_symbols(*b)) return false;
  const std::string &gold_sign = gold.operators[0], &answer_sign = answer.operators[0];
  const bool is_ordered = gold_sign != "=" && gold_sign != "!=";
  if (gold_sign == answer_sign && are_proportional(a, b, is_ordered)) return true;
  return gold_sign == flipped(answer_sign) && are_proportional(a, negate(b), is_ordered);
}

/// Whether two differences are multiples of each other at all points; the factor must be positive
/// for an inequality.
bool AnswerComparer::are_proportional(const MathPtr& gold,
                                      const MathPtr& answer,
                                      bool needs_positive) {
  const MathPtr zero = make_integer(0);
  const auto product = [](const MathPtr& left, const MathPtr& right) {
    return make_math(MathKind::kMultiply, {left, right});
  };
  MathPtr first_gold, first_answer;
  int num_points = 0;
  for (uint64_t seed = 0; seed < kNumPoints; ++seed) {
    const MathPtr a = at_point(gold, Point{seed}, work_), b = at_point(answer, Point{seed}, work_);
    try {
      const Comparison sign = compare_values(*a, *zero, work_),
                       other_sign = compare_values(*b, *zero, work_);
      if (sign == Comparison::kUnknown || other_sign == Comparison::kUnknown) continue;
      if (sign == Comparison::kEqual || other_sign == Comparison::kEqual) return false;
      if (needs_positive && sign != other_sign) return false;
      if (!first_gold) first_gold = a, first_answer = b;
      if (!is_equal_value(*product(a, first_answer), *product(b, first_gold), work_)) return false;
      ++num_points;
    } catch (const UndefinedValue&) {
      // A root or a logarithm does not exist here.
    }
  }
  return num_points >= kNumNeeded;
}

namespace {

/// Names and their values in "x = 3, y = 4" and in (x, y) = (3, 4); empty for other answers.
std::map<std::string, MathPtr> assignments_of(const Math& value) {
  std::map<std::string, MathPtr> result;
  const auto is_assignment = [](const Math& relation) {
    return relation.kind == MathKind::kRelation && relation.operators.size() == 1 &&
           relation.operators[0] == "=";
  };
  const auto assign = [&](const Math& name, const MathPtr& to) {
    return name.kind == MathKind::kSymbol && result.emplace(name.name, to).second;
  };
  if (value.kind == MathKind::kSet) {
    for (const MathPtr& item : value.children) {
      if (!is_assignment(*item) || !assign(*item->children[0], item->children[1])) return {};
    }
  } else if (is_assignment(value)) {
    const Math &names = *value.children[0], &values = *value.children[1];
    const bool are_lists = (names.kind == MathKind::kTuple || names.kind == MathKind::kInterval) &&
                           names.kind == values.kind &&
                           names.children.size() == values.children.size();
    for (size_t i = 0; are_lists && i < names.children.size(); ++i) {
      if (!assign(*names.children[i], values.children[i])) return {};
    }
  }
  return result;
}

}  // namespace

std::optional<bool> AnswerComparer::are_same_assignments(const Math& gold, const Math& answer) {
  const auto expected = assignments_of(gold), given = assignments_of(answer);
  const auto has_same_name = [](const auto& one, const auto& other) {
    return one.first == other.first;
  };
  const bool have_same_names =
      !expected.empty() && expected.size() == given.size() &&
      std::equal(expected.begin(), expected.end(), given.begin(), has_same_name);
  if (!have_same_names) return std::nullopt;
  return std::equal(
      expected.begin(), expected.end(), given.begin(),
      [&](const auto& one, const auto& other) { return is_same(one.second, other.second); });
}

}  // namespace lockstep::reward
