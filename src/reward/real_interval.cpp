// SPDX-License-Identifier: Apache-2.0
#include "reward/real_interval.h"

#include <algorithm>

#include "reward/exact_value.h"  // UndefinedValue

namespace lockstep::reward {
namespace {

using Operation = int (*)(mpfr_ptr, mpfr_srcptr, mpfr_rnd_t);

RealInterval increasing(Operation operation, const RealInterval& value) {
  RealInterval result(value.precision());
  operation(result.low(), value.low(), MPFR_RNDD);
  operation(result.high(), value.high(), MPFR_RNDU);
  return result;
}

RealInterval decreasing(Operation operation, const RealInterval& value) {
  RealInterval result(value.precision());
  operation(result.low(), value.high(), MPFR_RNDD);
  operation(result.high(), value.low(), MPFR_RNDU);
  return result;
}

/// Reducing a huge argument by π takes as many bits as it has.
void check_argument(const RealInterval& value) {
  constexpr mpfr_exp_t kLargest = 4096;
  if (value.exponent() > kLargest) throw NeedsPrecision{};
}

/// Sine or cosine: the value at the lower bound, give or take the width, as the slope is at most 1.
RealInterval wave(Operation operation, const RealInterval& value) {
  check_argument(value);
  RealInterval width(value.precision()), result(value.precision());
  mpfr_sub(width.high(), value.high(), value.low(), MPFR_RNDU);
  operation(result.low(), value.low(), MPFR_RNDD);
  mpfr_sub(result.low(), result.low(), width.high(), MPFR_RNDD);
  operation(result.high(), value.low(), MPFR_RNDU);
  mpfr_add(result.high(), result.high(), width.high(), MPFR_RNDU);
  if (mpfr_cmp_si(result.low(), -1) < 0) mpfr_set_si(result.low(), -1, MPFR_RNDN);
  if (mpfr_cmp_si(result.high(), 1) > 0) mpfr_set_si(result.high(), 1, MPFR_RNDN);
  return result;
}

/// The part of an argument that lies in [-1, 1].
RealInterval within_one(const RealInterval& value) {
  if (mpfr_cmp_si(value.low(), 1) > 0 || mpfr_cmp_si(value.high(), -1) < 0) throw UndefinedValue{};
  RealInterval result = value;
  if (mpfr_cmp_si(result.low(), -1) < 0) mpfr_set_si(result.low(), -1, MPFR_RNDN);
  if (mpfr_cmp_si(result.high(), 1) > 0) mpfr_set_si(result.high(), 1, MPFR_RNDN);
  return result;
}

RealInterval logarithm(const RealInterval& value) {
  if (value.sign() < 0 || (value.is_point() && value.has_zero())) throw UndefinedValue{};
  if (value.has_zero()) throw NeedsPrecision{};
  return increasing(mpfr_log, value);
}

RealInterval hyperbolic_cosine(const RealInterval& value) {
  return increasing(mpfr_cosh, absolute(value));
}

}  // namespace

RealInterval::RealInterval(mpfr_prec_t precision) {
  mpfr_init2(low_, precision);
  mpfr_init2(high_, precision);
  mpfr_set_zero(low_, 1);
  mpfr_set_zero(high_, 1);
}

RealInterval::RealInterval(const Rational& value, mpfr_prec_t precision) : RealInterval(precision) {
  mpfr_set_q(low_, value.get_mpq_t(), MPFR_RNDD);
  mpfr_set_q(high_, value.get_mpq_t(), MPFR_RNDU);
}

RealInterval::RealInterval(const RealInterval& other) : RealInterval(other.precision()) {
  mpfr_set(low_, other.low_, MPFR_RNDD);
  mpfr_set(high_, other.high_, MPFR_RNDU);
}

RealInterval::RealInterval(RealInterval&& other) noexcept : RealInterval(MPFR_PREC_MIN) {
  mpfr_swap(low_, other.low_);
  mpfr_swap(high_, other.high_);
}

RealInterval& RealInterval::operator=(RealInterval other) noexcept {
  mpfr_swap(low_, other.low_);
  mpfr_swap(high_, other.high_);
  return *this;
}

RealInterval::~RealInterval() {
  mpfr_clear(low_);
  mpfr_clear(high_);
}

RealInterval RealInterval::pi(mpfr_prec_t precision) {
  RealInterval result(precision);
  mpfr_const_pi(result.low_, MPFR_RNDD);
  mpfr_const_pi(result.high_, MPFR_RNDU);
  return result;
}

int RealInterval::sign() const {
  if (mpfr_sgn(low_) > 0) return 1;
  return mpfr_sgn(high_) < 0 ? -1 : 0;
}

mpfr_exp_t RealInterval::exponent() const {
  mpfr_exp_t largest = mpfr_get_emin();
  for (const mpfr_srcptr bound : {low(), high()}) {
    if (!mpfr_number_p(bound)) throw NeedsPrecision{};
    if (!mpfr_zero_p(bound)) largest = std::max(largest, mpfr_get_exp(bound));
  }
  return largest;
}

mpfr_exp_t RealInterval::width_exponent() const {
  RealInterval width(precision());
  mpfr_sub(width.high_, high_, low_, MPFR_RNDU);
  return width.exponent();
}

RealInterval operator+(const RealInterval& left, const RealInterval& right) {
  RealInterval result(left.precision());
  mpfr_add(result.low(), left.low(), right.low(), MPFR_RNDD);
  mpfr_add(result.high(), left.high(), right.high(), MPFR_RNDU);
  return result;
}

RealInterval operator-(const RealInterval& value) { return decreasing(mpfr_neg, value); }

RealInterval operator-(const RealInterval& left, const RealInterval& right) {
  return left + -right;
}

RealInterval operator*(const RealInterval& left, const RealInterval& right) {
  RealInterval result(left.precision()), product(left.precision());
  bool is_first = true;
  for (const mpfr_srcptr a : {left.low(), left.high()}) {
    for (const mpfr_srcptr b : {right.low(), right.high()}) {
      mpfr_mul(product.low(), a, b, MPFR_RNDD);
      mpfr_mul(product.high(), a, b, MPFR_RNDU);
      // Zero times an overflow
      if (mpfr_nan_p(product.low()) || mpfr_nan_p(product.high())) throw NeedsPrecision{};
      if (is_first || mpfr_less_p(product.low(), result.low()))
        mpfr_set(result.low(), product.low(), MPFR_RNDD);
      if (is_first || mpfr_greater_p(product.high(), result.high()))
        mpfr_set(result.high(), product.high(), MPFR_RNDU);
      is_first = false;
    }
  }
  return result;
}

RealInterval reciprocal(const RealInterval& value) {
  if (value.has_zero()) {
    if (value.is_point()) throw UndefinedValue{};
    throw NeedsPrecision{};
  }
  RealInterval result(value.precision());
  mpfr_ui_div(result.low(), 1, value.high(), MPFR_RNDD);
  mpfr_ui_div(result.high(), 1, value.low(), MPFR_RNDU);
  return result;
}

RealInterval absolute(const RealInterval& value) {
  if (value.sign() > 0) return value;
  RealInterval result = -value;
  if (value.sign() < 0) return result;
  if (mpfr_greater_p(value.high(), result.high())) mpfr_set(result.high(), value.high(), MPFR_RNDU);
  mpfr_set_zero(result.low(), 1);
  return result;
}

RealInterval root(const RealInterval& value, unsigned long degree) {
  RealInterval inside = value;
  if (degree % 2 == 0) {
    if (value.sign() < 0) throw UndefinedValue{};
    // What lies below zero is there by rounding only.
    if (mpfr_sgn(inside.low()) < 0) mpfr_set_zero(inside.low(), 1);
  }
  RealInterval result(value.precision());
  mpfr_rootn_ui(result.low(), inside.low(), degree, MPFR_RNDD);
  mpfr_rootn_ui(result.high(), inside.high(), degree, MPFR_RNDU);
  return result;
}

RealInterval power(const RealInterval& base, const Integer& exponent) {
  if (exponent < 0) return reciprocal(power(base, Integer(-exponent)));
  if (exponent == 0 && base.has_zero()) {
    if (base.is_point()) throw UndefinedValue{};
    throw NeedsPrecision{};
  }
  const RealInterval inside = exponent % 2 == 0 ? absolute(base) : base;
  RealInterval result(base.precision());
  mpfr_pow_z(result.low(), inside.low(), exponent.get_mpz_t(), MPFR_RNDD);
  mpfr_pow_z(result.high(), inside.high(), exponent.get_mpz_t(), MPFR_RNDU);
  return result;
}

RealInterval power(const RealInterval& base, const RealInterval& exponent) {
  if (base.is_point() && base.has_zero()) {
    if (exponent.sign() > 0) return base;
    throw UndefinedValue{};
  }
  return elementary("exp", exponent * logarithm(base));
}

RealInterval elementary(std::string_view name, const RealInterval& value) {
  if (name == "sin") return wave(mpfr_sin, value);
  if (name == "cos") return wave(mpfr_cos, value);
  if (name == "tan") return elementary("sin", value) * reciprocal(elementary("cos", value));
  if (name == "cot") return elementary("cos", value) * reciprocal(elementary("sin", value));
  if (name == "sec") return reciprocal(elementary("cos", value));
  if (name == "csc") return reciprocal(elementary("sin", value));
  if (name == "arcsin") return increasing(mpfr_asin, within_one(value));
  if (name == "arccos") return decreasing(mpfr_acos, within_one(value));
  if (name == "arctan") return increasing(mpfr_atan, value);
  if (name == "sinh") return increasing(mpfr_sinh, value);
  if (name == "cosh") return hyperbolic_cosine(value);
  if (name == "tanh") return increasing(mpfr_tanh, value);
  if (name == "exp") return increasing(mpfr_exp, value);
  if (name == "ln") return logarithm(value);
  if (name == "factorial") {
    const RealInterval one(Rational(1), value.precision());
    return increasing(mpfr_exp, increasing(mpfr_lngamma, value + one));
  }
  throw NeedsPrecision{};
}

}  // namespace lockstep::reward
