// Words, numbers and formulas.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <optional>

#include "reward/answer_comparer.h"
#include "reward/complex_value.h"
#include "reward/exact_value.h"
#include "reward/real_value.h"

namespace lockstep::reward {
namespace {

bool is_whole(const Math& value) {
  return value.is_number() && value.number->get_den() == 1 && !value.decimal_places;
}

/// The number of "5", "5%" and "5°"; null for other formulas.
const Math* number_in(const Math& value) {
  if (value.is_number()) return &value;
  const bool has_mark = value.kind == MathKind::kPercent || value.is_function("degrees");
  return has_mark && value.children[0]->is_number() ? value.children[0].get() : nullptr;
}

/// "abc" of a product of letters; nothing for other formulas.
std::optional<std::string> word_of(const Math& value) {
  if (value.kind == MathKind::kEuler) return "e";
  if (value.kind == MathKind::kSymbol) return value.name;
  if (value.kind != MathKind::kMultiply) return std::nullopt;
  std::string word;
  for (const MathPtr& factor : value.children) {
    if (factor->kind != MathKind::kSymbol && factor->kind != MathKind::kEuler) return std::nullopt;
    word += factor->kind == MathKind::kEuler ? "e" : factor->name;
  }
  return word;
}

/// An integer written as text, "\text{100}".
bool is_word_of_number(const Math& word, const Math& number) {
  return word.kind == MathKind::kSymbol && is_whole(number) &&
         word.name == number.number->get_num().get_str();
}

bool needs_integers(const Math& value) {
  static constexpr std::array<std::string_view, 5> kFunctions = {"factorial", "double factorial",
                                                                 "binomial", "gcd", "lcm"};
  return contains(value, [](const Math& part) {
    return part.kind == MathKind::kFunction && has_symbols(part) &&
           std::find(kFunctions.begin(), kFunctions.end(), part.name) != kFunctions.end();
  });
}

}  // namespace

bool AnswerComparer::are_equal_terms(const MathPtr& gold, const MathPtr& answer) {
  const auto gold_word = word_of(*gold), answer_word = word_of(*answer);
  if (gold_word && answer_word && *gold_word == *answer_word) return true;
  if (const auto are_equal = are_equal_complex(gold, answer)) return *are_equal;
  if (gold->kind == MathKind::kSymbol || answer->kind == MathKind::kSymbol)
    return is_word_of_number(*gold, *answer) || is_word_of_number(*answer, *gold);
  if (gold->is_function("ratio") && answer->is_function("ratio"))
    return are_equal_ratios(*gold, *answer);
  if (gold->is_function("residue class") || answer->is_function("residue class"))
    return are_equal_residues(*gold, *answer);
  return are_equal_scalars(*gold, *answer);
}

bool AnswerComparer::are_equal_scalars(const Math& gold, const Math& answer) {
  const int sign = sign_of_infinity(gold), other_sign = sign_of_infinity(answer);
  if (sign != 0 || other_sign != 0) return sign == other_sign;
  if (has_symbols(gold) || has_symbols(answer)) return are_equal_at_points(gold, answer);
  const Math* const gold_number = number_in(gold);
  const Math* const answer_number = number_in(answer);
  const bool has_decimal = (gold_number && gold_number->decimal_places) ||
                           (answer_number && answer_number->decimal_places);
  // sympy rounds an integer to an integer, which never equals a rounded decimal.
  if (has_decimal && !is_whole(gold) && !is_whole(answer) && are_equal_rounded(gold, answer))
    return true;
  // 9% = 9: a percent sign may be left out behind an integer.
  if (gold_number && answer_number && is_whole(*gold_number) && is_whole(*answer_number) &&
      *gold_number->number == *answer_number->number)
    return true;
  const Comparison comparison = compare_values(gold, answer, work_);
  return comparison == Comparison::kEqual ||
         (comparison == Comparison::kUnknown && is_same_tree(gold, answer));
}

/// Nothing unless i is the imaginary unit, and there are no other names: in one formula alone, as
/// in i², it may be an index.
std::optional<bool> AnswerComparer::are_equal_complex(const MathPtr& gold, const MathPtr& answer) {
  const bool have_both = has_imaginary_unit(*gold) && has_imaginary_unit(*answer);
  if (!have_both && !uses_imaginary_unit(*gold) && !uses_imaginary_unit(*answer))
    return std::nullopt;
  const auto a = complex_parts(gold, work_), b = complex_parts(answer, work_);
  if (!a || !b) return std::nullopt;
  return is_equal_value(*a->real, *b->real, work_) &&
         is_equal_value(*a->imaginary, *b->imaginary, work_);
}

bool AnswerComparer::are_equal_rounded(const Math& gold, const Math& answer) {
  // Six places, as math_verify takes, say nothing of a number that begins behind them.
  constexpr int kPlaces = 6, kDigits = 4;
  std::optional<int> exponent = decimal_exponent(gold, work_);
  if (!exponent) exponent = decimal_exponent(answer, work_);
  const int places = exponent ? std::max(kPlaces, kDigits - *exponent) : kPlaces;
  const auto a = rounded_value(gold, places, work_);
  const auto b = a ? rounded_value(answer, places, work_) : std::nullopt;
  return a && b && *a == *b;
}

/// Equal at several values of the symbols; where too few of them have a value, only formulas that
/// are written alike are equal.
bool AnswerComparer::are_equal_at_points(const Math& gold, const Math& answer) {
  const bool starts_with_integers = needs_integers(gold) || needs_integers(answer);
  for (const bool is_integer : {starts_with_integers, true}) {
    int num_equal = 0;
    for (uint64_t seed = 0; seed < kNumPoints; ++seed) {
      const Point point{seed, is_integer};
      try {
        const Comparison comparison = compare_values(gold, answer, work_, &point);
        if (comparison == Comparison::kUnknown) continue;
        if (comparison != Comparison::kEqual) return false;
        ++num_equal;
      } catch (const UndefinedValue&) {
        // A root or a logarithm does not exist here.
      }
    }
    if (num_equal >= kNumNeeded) return true;
  }
  return is_same_tree(gold, answer);
}

/// 2:3 and 4:6; with a zero, as in times, only the same numbers.
bool AnswerComparer::are_equal_ratios(const Math& gold, const Math& answer) {
  const auto &a = gold.children, &b = answer.children;
  if (are_same_elements(a, b, /*in_order=*/true)) return true;
  if (a.size() != b.size()) return false;
  const auto is_zero = [&](const MathPtr& part) {
    return !has_symbols(*part) && is_equal_value(*part, *make_integer(0), work_);
  };
  if (std::any_of(a.begin(), a.end(), is_zero) || std::any_of(b.begin(), b.end(), is_zero))
    return false;
  for (size_t i = 1; i < a.size(); ++i) {
    const MathPtr left = make_math(MathKind::kMultiply, {a[0], b[i]}),
                  right = make_math(MathKind::kMultiply, {b[0], a[i]});
    if (!are_equal_scalars(*left, *right)) return false;
  }
  return true;
}

/// 3 and 8 modulo 5 are the same class, and 3 names it.
bool AnswerComparer::are_equal_residues(const Math& gold, const Math& answer) {
  if (gold.kind != answer.kind || gold.name != answer.name) {
    const bool gold_is_class = gold.is_function("residue class");
    const Math& named = *(gold_is_class ? gold : answer).children[0];
    return are_equal_scalars(gold_is_class ? named : gold, gold_is_class ? answer : named);
  }
  if (!is_same(gold.children[1], answer.children[1])) return false;
  const MathPtr difference =
      make_math(MathKind::kAdd, {gold.children[0], negate(answer.children[0])});
  const auto times = exact_value(
      *make_math(MathKind::kMultiply, {difference, reciprocal(gold.children[1])}), work_);
  return times && times->get_den() == 1;
}

}  // namespace lockstep::reward
