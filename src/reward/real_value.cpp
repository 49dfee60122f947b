// SPDX-License-Identifier: Apache-2.0
#include "reward/real_value.h"

#include <algorithm>
#include <limits>

#include "reward/real_interval.h"
#include "reward/residue.h"

namespace lockstep::reward {
namespace {

constexpr mpfr_prec_t kMostPrecision = 32'768;

/// Whether angles in it are degrees: "30^\circ", also in sums and multiples.
bool has_degrees(const Math& value) {
  return contains(value, [](const Math& part) { return part.is_function("degrees"); });
}

bool is_angle_function(std::string_view name) {
  return name == "sin" || name == "cos" || name == "tan" || name == "cot" || name == "sec" ||
         name == "csc";
}

class IntervalEvaluator {
 public:
  IntervalEvaluator(mpfr_prec_t precision, WorkBudget& work, const Point* point)
      : precision_(precision), work_(work), point_(point) {}

  RealInterval value_of(const Math& value) {
    work_.spend(16 + precision_ / 16);
    switch (value.kind) {
      case MathKind::kNumber:
        return RealInterval(*value.number, precision_);
      case MathKind::kSymbol:
        if (!point_) throw NeedsPrecision{};
        return RealInterval((*point_)[value.name], precision_);
      case MathKind::kPi:
        return RealInterval::pi(precision_);
      case MathKind::kEuler:
        return elementary("exp", RealInterval(Rational(1), precision_));
      case MathKind::kInfinity:
        throw UndefinedValue{};  // no number, and no arithmetic is done with it
      case MathKind::kPercent:
        return value_of(*value.children[0]) * RealInterval(Rational(1, 100), precision_);
      case MathKind::kAdd:
      case MathKind::kMultiply:
        return fold(value);
      case MathKind::kPower:
        return power_of(*value.children[0], *value.children[1]);
      case MathKind::kFunction:
        return function(value);
      default:
        throw NeedsPrecision{};
    }
  }

 private:
  RealInterval fold(const Math& value) {
    RealInterval result = value_of(*value.children.at(0));
    for (size_t i = 1; i < value.children.size(); ++i) {
      const RealInterval part = value_of(*value.children[i]);
      result = value.kind == MathKind::kAdd ? result + part : result * part;
    }
    return result;
  }

  RealInterval power_of(const Math& base, const Math& exponent) {
    constexpr unsigned long kHighestRoot = 100'000;
    const std::optional<Rational> exact = exact_value(exponent, work_, point_);
    if (!exact || exact->get_den() > kHighestRoot) {
      // e^x: the logarithm of the base would only lose digits.
      if (base.kind == MathKind::kEuler) return function_of("exp", value_of(exponent));
      return power(value_of(base), value_of(exponent));
    }
    RealInterval inside = value_of(base);
    const unsigned long degree = exact->get_den().get_ui();
    if (degree > 1) inside = function_cost(root(inside, degree));
    return power(inside, Integer(exact->get_num()));
  }

  RealInterval function_cost(RealInterval result) {
    work_.spend(precision_);
    return result;
  }
  RealInterval function_of(std::string_view name, const RealInterval& argument) {
    // Elementary functions cost more than linearly in the digits.
    work_.spend(precision_ + precision_ * precision_ / 512);
    return elementary(name, argument);
  }

  RealInterval function(const Math& value) {
    const std::string& name = value.name;
    if (const std::optional<Rational> exact = exact_value(value, work_, point_))
      return RealInterval(*exact, precision_);
    if (name == "factorial") return large_factorial(*value.children.at(0));
    RealInterval argument = value_of(*value.children.at(0));
    if (name == "abs") return absolute(argument);
    if (name == "degrees") return argument;
    if (name == "ratio") return argument * reciprocal(value_of(*value.children.at(1)));
    if (name == "floor" || name == "ceil") return whole_number(name, argument);
    if (name == "max" || name == "min") return extreme(value);
    if (name == "log") {
      const RealInterval above = function_of("ln", argument);
      if (value.children.size() < 2) return above;
      return above * reciprocal(function_of("ln", value_of(*value.children[1])));
    }
    if (is_angle_function(name) && has_degrees(*value.children[0]))
      argument =
          argument * RealInterval::pi(precision_) * RealInterval(Rational(1, 180), precision_);
    return function_of(name, argument);
  }

  /// n! of an integer that is too large for all digits.
  RealInterval large_factorial(const Math& of_value) {
    constexpr mpfr_prec_t kMostBits = 1024;
    const std::optional<Rational> count = exact_value(of_value, work_, point_);
    if (!count || count->get_den() != 1 || *count < 2 || precision_ > kMostBits)
      throw NeedsPrecision{};
    return function_of("factorial", RealInterval(*count, precision_));
  }

  /// The whole number below or above, where both bounds have the same.
  RealInterval whole_number(std::string_view name, const RealInterval& value) {
    RealInterval result(precision_);
    const auto round = name == "floor" ? MPFR_RNDD : MPFR_RNDU;
    mpfr_rint(result.low(), value.low(), round);
    mpfr_rint(result.high(), value.high(), round);
    if (!result.is_point()) throw NeedsPrecision{};
    return result;
  }

  RealInterval extreme(const Math& value) {
    RealInterval result = value_of(*value.children[0]);
    const bool is_max = value.name == "max";
    for (size_t i = 1; i < value.children.size(); ++i) {
      const RealInterval other = value_of(*value.children[i]);
      (is_max ? mpfr_max : mpfr_min)(result.low(), result.low(), other.low(), MPFR_RNDD);
      (is_max ? mpfr_max : mpfr_min)(result.high(), result.high(), other.high(), MPFR_RNDU);
    }
    return result;
  }

  mpfr_prec_t precision_;
  WorkBudget& work_;
  const Point* point_;
};

/// Bits of the numbers of a formula, and a share for each part that makes it irrational.
mpfr_prec_t complexity_of(const Math& value) {
  constexpr mpfr_prec_t kShare = 32;
  mpfr_prec_t bits = 0;
  if (value.is_number()) {
    bits += static_cast<mpfr_prec_t>(mpz_sizeinbase(value.number->get_num_mpz_t(), 2) +
                                     mpz_sizeinbase(value.number->get_den_mpz_t(), 2));
  } else if (value.kind != MathKind::kAdd && value.kind != MathKind::kMultiply) {
    bits += kShare;
  }
  for (const MathPtr& child : value.children) bits += complexity_of(*child);
  return std::min(bits, kMostPrecision);
}

bool has_sum(const Math& value) {
  return contains(value, [](const Math& part) { return part.kind == MathKind::kAdd; });
}

class Comparer {
 public:
  Comparer(const Math& left, const Math& right, WorkBudget& work, const Point* point)
      : left_(left), right_(right), work_(work), point_(point) {
    constexpr mpfr_prec_t kLast = 4096;
    target_ = std::min(128 + 2 * (complexity_of(left) + complexity_of(right)), kMostPrecision);
    last_ = std::clamp(4 * target_, kLast, 2 * kMostPrecision);
  }

  Comparison compare() {
    const std::optional<Rational> a = exact_value(left_, work_, point_),
                                  b = exact_value(right_, work_, point_);
    if (a && b) return comparison_of(cmp(*a, *b));
    const std::optional<bool> agree = residues_agree();
    for (mpfr_prec_t precision = target_ + 64;; precision *= 2) {
      precision = std::min(precision, last_);
      try {
        const std::optional<Comparison> found = compare_at(precision, agree);
        if (found) return *found;
      } catch (const NeedsPrecision&) {
      }
      if (precision >= last_) return agree == false ? Comparison::kUnequal : Comparison::kUnknown;
    }
  }

 private:
  static Comparison comparison_of(int sign) {
    return sign < 0 ? Comparison::kLess : sign > 0 ? Comparison::kGreater : Comparison::kEqual;
  }

  /// Nothing where one of the two is no fraction.
  std::optional<bool> residues_agree() {
    for (const uint64_t prime : kResiduePrimes) {
      const std::optional<uint64_t> a = residue_of(left_, prime, work_, point_),
                                    b = residue_of(right_, prime, work_, point_);
      if (!a || !b) return std::nullopt;
      if (*a != *b) return false;
    }
    return true;
  }

  /// Nothing where more digits are needed.
  std::optional<Comparison> compare_at(mpfr_prec_t precision, std::optional<bool> residues_agree) {
    IntervalEvaluator evaluator(precision, work_, point_);
    const RealInterval a = evaluator.value_of(left_), b = evaluator.value_of(right_);
    const RealInterval difference = a - b;
    if (difference.sign() != 0) return comparison_of(difference.sign());
    if (residues_agree == true) return Comparison::kEqual;
    if (residues_agree == false) return std::nullopt;
    const mpfr_exp_t size = std::max(a.exponent(), b.exponent());
    const mpfr_exp_t width = difference.width_exponent();
    if (width < -target_ || (size < 0 && width < size - target_)) return Comparison::kEqual;
    // A product of huge numbers is as far from another as its leading digits say; what stands
    // behind the leading digits of a sum would need all of them.
    const bool is_product = !has_sum(left_) && !has_sum(right_);
    if (size > kMostPrecision && is_product && width < size - target_) return Comparison::kEqual;
    if (size > 0) last_ = std::clamp(2 * (size + target_), last_, 2 * kMostPrecision);
    return std::nullopt;
  }

  const Math& left_;
  const Math& right_;
  WorkBudget& work_;
  const Point* point_;
  /// Bits that two values must have in common, and the most that are computed for it.
  mpfr_prec_t target_, last_;
};

/// Rounds half to even where it is exact; otherwise both bounds must round alike.
std::optional<Integer> rounded_interval(const RealInterval& value) {
  Integer low, high;
  value.exponent();  // both are finite
  mpfr_get_z(low.get_mpz_t(), value.low(), MPFR_RNDN);
  mpfr_get_z(high.get_mpz_t(), value.high(), MPFR_RNDN);
  return low == high ? std::optional(low) : std::nullopt;
}

/// Calls `use(interval)` with more and more digits until it gives something.
template <class Use>
auto with_precision(const Math& value, WorkBudget& work, const Use& use)
    -> decltype(use(RealInterval(MPFR_PREC_MIN))) {
  constexpr mpfr_prec_t kFirst = 256, kLast = 8192;
  for (mpfr_prec_t precision = kFirst; precision <= kLast; precision *= 2) {
    try {
      const auto result = use(IntervalEvaluator(precision, work, nullptr).value_of(value));
      if (result) return result;
    } catch (const NeedsPrecision&) {
    }
  }
  return std::nullopt;
}

}  // namespace

Comparison compare_values(const Math& left,
                          const Math& right,
                          WorkBudget& work,
                          const Point* point) {
  return Comparer(left, right, work, point).compare();
}

std::optional<Integer> rounded_value(const Math& value, int places, WorkBudget& work) {
  Integer scale;
  mpz_ui_pow_ui(scale.get_mpz_t(), 10, static_cast<unsigned long>(places));
  if (const std::optional<Rational> exact = exact_value(value, work))
    return nearest_integer(*exact * scale);
  return with_precision(value, work, [&](const RealInterval& interval) -> std::optional<Integer> {
    constexpr mpfr_exp_t kLargest = 4096;
    if (interval.exponent() > kLargest) return std::nullopt;
    return rounded_interval(interval * RealInterval(Rational(scale), interval.precision()));
  });
}

std::optional<int> decimal_exponent(const Math& value, WorkBudget& work) {
  return with_precision(value, work, [&](const RealInterval& interval) -> std::optional<int> {
    if (interval.has_zero()) return std::nullopt;
    constexpr double kLog2Of10 = 3.321928094887362;
    const auto exponent = static_cast<double>(interval.exponent()) / kLog2Of10;
    if (exponent < -10'000 || exponent > 10'000) return std::nullopt;
    return static_cast<int>(std::ceil(exponent));
  });
}

}  // namespace lockstep::reward
