// The strategies of math_verify's grader, in its order: relations, sets, words, numbers.
// SPDX-License-Identifier: Apache-2.0
#include "reward/math_compare.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace lockstep::reward {
namespace {

bool is_collection(const Math& value) {
  return value.kind == MathKind::kSet || value.kind == MathKind::kTuple ||
         value.kind == MathKind::kInterval || value.kind == MathKind::kUnion;
}

bool is_number(const Math& value) { return value.kind == MathKind::kNumber; }
/// The number of "5" and of "5%".
const Math* atom_of(const Math& value) {
  if (is_number(value)) return &value;
  const bool is_percent = value.kind == MathKind::kPercent && is_number(*value.children[0]);
  return is_percent ? value.children[0].get() : nullptr;
}

// --- numbers and formulas

/// value · 10⁶, halves to even, or nothing where 128 bits do not suffice.
std::optional<WideInt> rounded(const Math& value) {
  constexpr WideInt kScale = 1'000'000;
  const std::optional<Rational> exact = exact_value(value);
  const std::optional<Rational> scaled = exact ? multiply(*exact, {kScale, 1}) : std::nullopt;
  if (!scaled) {
    const long double approximate = approximate_value(value, 0) * kScale;
    if (!(std::fabs(approximate) < 1e30L)) return std::nullopt;
    return static_cast<WideInt>(std::nearbyint(approximate));
  }
  WideInt quotient = scaled->num / scaled->den;
  const WideInt rest = scaled->num - quotient * scaled->den;
  const WideInt size = rest < 0 ? -rest : rest;
  const WideInt direction = scaled->num < 0 ? -1 : 1;
  const WideInt missing = scaled->den - size;  // size >= missing is "half or more"
  if (size > missing || (size == missing && quotient % 2 != 0)) quotient += direction;
  return quotient;
}

/// Equal at several values of the symbols; where a formula is undefined for most, equality cannot
/// be told.
bool are_equal_at_points(const Math& left, const Math& right) {
  const bool has_points = has_symbols(left) || has_symbols(right);
  const int num_points = has_points ? 12 : 1;
  const int num_needed = has_points ? 3 : 1;
  int num_equal = 0;
  for (int seed = 0; seed < num_points; ++seed) {
    const long double a = approximate_value(left, static_cast<uint64_t>(seed));
    const long double b = approximate_value(right, static_cast<uint64_t>(seed));
    if (std::isnan(a) || std::isnan(b)) {
      if (std::isnan(a) != std::isnan(b)) return false;
      continue;
    }
    if (std::isinf(a) || std::isinf(b)) {
      if (a != b) return false;
    } else if (std::fabs(a - b) > 1e-11L * std::max({std::fabs(a), std::fabs(b), 1e-4L})) {
      return false;
    }
    ++num_equal;
  }
  return num_equal >= num_needed;
}

bool are_equal_scalars(const Math& gold, const Math& answer) {
  const Math* gold_atom = atom_of(gold);
  const Math* answer_atom = atom_of(answer);
  const bool has_decimal =
      (gold_atom && gold_atom->is_decimal) || (answer_atom && answer_atom->is_decimal);
  // sympy rounds an integer to an integer, which never equals a rounded decimal.
  const auto is_integer = [](const Math& value) {
    return is_number(value) && value.number->is_integer() && !value.is_decimal;
  };
  if (has_decimal && !is_integer(gold) && !is_integer(answer) && !has_symbols(gold) &&
      !has_symbols(answer)) {
    const auto a = rounded(gold), b = rounded(answer);
    if (a && b && *a == *b) return true;
  }
  // 9% = 9: a percent sign may be left out behind an integer.
  if (gold_atom && answer_atom && gold_atom->number->is_integer() && !gold_atom->is_decimal &&
      answer_atom->number->is_integer() && !answer_atom->is_decimal &&
      *gold_atom->number == *answer_atom->number)
    return true;
  const std::optional<Rational> a = exact_value(gold), b = exact_value(answer);
  if (a && b) return *a == *b;
  return are_equal_at_points(gold, answer);
}

// --- words

/// "abc" of a product of letters; nothing for other formulas.
std::optional<std::string> word_of(const Math& value) {
  if (value.kind == MathKind::kSymbol) return value.name;
  if (value.kind != MathKind::kMultiply) return std::nullopt;
  std::string word;
  for (const MathPtr& factor : value.children) {
    if (factor->kind == MathKind::kSymbol) {
      word += factor->name;
    } else if (factor->kind == MathKind::kEuler) {
      word += "e";
    } else {
      return std::nullopt;
    }
  }
  return word;
}

bool are_equal_words(const Math& gold, const Math& answer) {
  const auto is_euler = [](const Math& value) {
    return value.kind == MathKind::kEuler || (value.kind == MathKind::kSymbol && value.name == "e");
  };
  if (is_euler(gold) && is_euler(answer)) return true;
  const auto a = word_of(gold), b = word_of(answer);
  return a && b && *a == *b;
}

/// An integer written as text, "\text{100}".
bool is_word_of_number(const Math& word, const Math& number) {
  return word.kind == MathKind::kSymbol && is_number(number) && number.number->is_integer() &&
         !number.is_decimal && word.name == fmt::format("{}", number.number->num);
}

// --- sets

bool are_same_elements(const std::vector<MathPtr>& gold,
                       const std::vector<MathPtr>& answer,
                       bool in_order) {
  if (gold.size() != answer.size()) return false;
  std::vector<bool> is_used(answer.size(), false);
  for (size_t i = 0; i < gold.size(); ++i) {
    bool found = false;
    for (size_t j = in_order ? i : 0; j < (in_order ? i + 1 : answer.size()) && !found; ++j) {
      if (is_used[j] || !is_same_answer(*gold[i], *answer[j])) continue;
      is_used[j] = found = true;
    }
    if (!found) return false;
  }
  return true;
}

/// A set without the elements that repeat earlier ones.
std::vector<MathPtr> distinct(const std::vector<MathPtr>& items) {
  std::vector<MathPtr> result;
  for (const MathPtr& item : items) {
    const bool is_known = std::any_of(result.begin(), result.end(), [&](const MathPtr& known) {
      return is_same_answer(*known, *item);
    });
    if (!is_known) result.push_back(item);
  }
  return result;
}

bool are_equal_collections(const Math& gold, const Math& answer) {
  const bool gold_is_interval = gold.kind == MathKind::kInterval;
  const bool answer_is_interval = answer.kind == MathKind::kInterval;
  if (gold_is_interval && answer_is_interval)
    return gold.is_left_open == answer.is_left_open && gold.is_right_open == answer.is_right_open &&
           are_same_elements(gold.children, answer.children, /*in_order=*/true);
  if (gold.kind == MathKind::kUnion || answer.kind == MathKind::kUnion)
    return gold.kind == answer.kind &&
           are_same_elements(gold.children, answer.children, /*in_order=*/false);
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

// --- relations

bool is_equation(const Math& value) {
  return value.kind == MathKind::kRelation &&
         std::all_of(value.operators.begin(), value.operators.end(),
                     [](const std::string& sign) { return sign == "="; });
}

/// A name, or a sum or product of names.
bool has_only_names(const Math& value) {
  if (value.kind == MathKind::kSymbol) return true;
  return (value.kind == MathKind::kAdd || value.kind == MathKind::kMultiply) &&
         std::all_of(value.children.begin(), value.children.end(),
                     [](const MathPtr& child) { return has_only_names(*child); });
}

/// x = …: an equation that gives names a value.
bool is_assignment(const Math& value) {
  return is_equation(value) && has_only_names(*value.children.front());
}

std::string flipped(const std::string& sign) {
  if (sign[0] == '<') return ">" + sign.substr(1);
  if (sign[0] == '>') return "<" + sign.substr(1);
  return sign;
}

/// Whether two differences are multiples of each other at all points; the factor must be positive
/// for an inequality.
bool are_proportional(const Math& gold, const Math& answer, bool needs_positive) {
  long double factor = 0;
  int num_points = 0;
  for (uint64_t seed = 0; seed < 12; ++seed) {
    const long double a = approximate_value(gold, seed), b = approximate_value(answer, seed);
    if (std::isnan(a) || std::isnan(b) || std::isinf(a) || std::isinf(b)) continue;
    if (a == 0 || b == 0) return false;
    if (num_points++ == 0) factor = a / b;
    if (std::fabs(a / b - factor) > 1e-10L * std::fabs(factor)) return false;
  }
  return num_points >= 3 && (!needs_positive || factor > 0);
}

bool are_equal_pairs(const Math& gold,
                     const Math& answer,
                     const std::string& gold_sign,
                     const std::string& answer_sign) {
  const auto difference = [](const Math& relation) {
    return make_math(MathKind::kAdd, {relation.children[0], negate(relation.children[1])});
  };
  const MathPtr a = difference(gold), b = difference(answer);
  if (!has_symbols(*a) || !has_symbols(*b)) return false;
  const bool is_ordered = gold_sign != "=" && gold_sign != "!=";
  if (gold_sign == answer_sign && are_proportional(*a, *b, is_ordered)) return true;
  return gold_sign == flipped(answer_sign) && are_proportional(*a, *negate(b), is_ordered);
}

bool are_equal_relations(const Math& gold, const Math& answer) {
  const size_t length = gold.operators.size();
  if (length != answer.operators.size()) return false;
  if (gold.operators == answer.operators &&
      are_same_elements(gold.children, answer.children, /*in_order=*/true))
    return true;
  return length == 1 && are_equal_pairs(gold, answer, gold.operators[0], answer.operators[0]);
}

/// The interval of an inequality in one name, or null.
MathPtr interval_of(const Math& relation) {
  if (is_equation(relation)) return nullptr;
  auto interval = std::make_shared<Math>();
  interval->kind = MathKind::kInterval;
  interval->is_left_open = interval->is_right_open = true;
  interval->children = {negate(make_math(MathKind::kInfinity)), make_math(MathKind::kInfinity)};
  for (size_t i = 0; i < relation.operators.size(); ++i) {
    const bool name_is_left = relation.children[i]->kind == MathKind::kSymbol;
    const MathPtr& bound = relation.children[name_is_left ? i + 1 : i];
    const MathPtr& name = relation.children[name_is_left ? i : i + 1];
    if (name->kind != MathKind::kSymbol || has_symbols(*bound)) return nullptr;
    const std::string sign = name_is_left ? relation.operators[i] : flipped(relation.operators[i]);
    if (sign[0] != '<' && sign[0] != '>') return nullptr;
    const bool is_upper = sign[0] == '<';
    interval->children[is_upper ? 1 : 0] = bound;
    (is_upper ? interval->is_right_open : interval->is_left_open) = sign.size() == 1;
  }
  return interval;
}

/// x = y = 5 → x = 5.
MathPtr shortened(const Math& assignment) {
  auto result = std::make_shared<Math>(assignment);
  result->children = {assignment.children.front(), assignment.children.back()};
  result->operators = {"="};
  return result;
}

bool are_equal_unwrapped(const Math& gold, const Math& answer) {
  if (gold.kind == MathKind::kRelation && is_collection(answer)) {
    const MathPtr interval = interval_of(gold);
    return interval && are_equal_collections(*interval, answer);
  }
  const bool gold_is_relation = gold.kind == MathKind::kRelation;
  if (gold_is_relation || answer.kind == MathKind::kRelation)
    return gold.kind == answer.kind && are_equal_relations(gold, answer);
  if (is_collection(gold) || is_collection(answer)) {
    const auto as_set = [](const Math& value) {
      return is_collection(value)
                 ? std::make_shared<const Math>(value)
                 : make_math(MathKind::kSet, {std::make_shared<const Math>(value)});
    };
    return are_equal_collections(*as_set(gold), *as_set(answer));
  }
  if (gold.kind == MathKind::kMatrix || answer.kind == MathKind::kMatrix)
    return gold.kind == answer.kind && gold.name == answer.name &&
           are_same_elements(gold.children, answer.children, /*in_order=*/true);
  if (are_equal_words(gold, answer)) return true;
  if (gold.kind == MathKind::kSymbol || answer.kind == MathKind::kSymbol)
    return is_word_of_number(gold, answer) || is_word_of_number(answer, gold);
  return are_equal_scalars(gold, answer);
}

}  // namespace

bool is_same_answer(const Math& gold, const Math& answer) {
  const bool gold_assigns = is_assignment(gold), answer_assigns = is_assignment(answer);
  // What an equation says of a value is its last side.
  if (is_equation(answer) && !is_equation(gold))
    return are_equal_unwrapped(gold, *answer.children.back());
  if (gold_assigns && !is_equation(answer))
    return are_equal_unwrapped(*gold.children.back(), answer);
  return are_equal_unwrapped(gold_assigns ? *shortened(gold) : gold,
                             answer_assigns ? *shortened(answer) : answer);
}

}  // namespace lockstep::reward
