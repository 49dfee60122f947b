// Intervals that are known to hold a real number, on MPFR.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpfr.h>

#include "reward/math_value.h"

namespace lockstep::reward {

/// Thrown where an interval is too wide to say whether an operation is defined, and for values out
/// of range. It never leaves real_value.cpp.
struct NeedsPrecision {};

/// Two bounds that are rounded outwards. Every operation gives an interval that holds the result
/// for all numbers in its arguments.
///
/// Operations throw UndefinedValue where no number in the arguments has a result (the logarithm of
/// a negative number), and NeedsPrecision where some have one and others not.
class RealInterval {
 public:
  /// Precision in bits. Zero.
  explicit RealInterval(mpfr_prec_t precision);
  RealInterval(const Rational& value, mpfr_prec_t precision);
  RealInterval(const RealInterval& other);
  RealInterval(RealInterval&& other) noexcept;
  RealInterval& operator=(RealInterval other) noexcept;
  ~RealInterval();

  static RealInterval pi(mpfr_prec_t precision);

  mpfr_prec_t precision() const { return mpfr_get_prec(low_); }
  mpfr_srcptr low() const { return low_; }
  mpfr_srcptr high() const { return high_; }
  mpfr_ptr low() { return low_; }
  mpfr_ptr high() { return high_; }

  /// +1 or -1 if all of it is above or below zero, else 0.
  int sign() const;
  bool has_zero() const { return sign() == 0; }
  /// Whether it is one number.
  bool is_point() const { return mpfr_equal_p(low_, high_) != 0; }
  /// The binary exponent of its largest number; very small for zero.
  mpfr_exp_t exponent() const;
  /// The binary exponent of its width; very small for a point.
  mpfr_exp_t width_exponent() const;

 private:
  mpfr_t low_, high_;
};

RealInterval operator+(const RealInterval& left, const RealInterval& right);
RealInterval operator-(const RealInterval& value);
RealInterval operator-(const RealInterval& left, const RealInterval& right);
RealInterval operator*(const RealInterval& left, const RealInterval& right);
RealInterval reciprocal(const RealInterval& value);
RealInterval absolute(const RealInterval& value);
/// The root of a negative number is the negative one if the degree is odd.
RealInterval root(const RealInterval& value, unsigned long degree);
RealInterval power(const RealInterval& base, const Integer& exponent);
/// The base must be positive.
RealInterval power(const RealInterval& base, const RealInterval& exponent);
/// sin, cos, tan, cot, sec, csc, arcsin, arccos, arctan, sinh, cosh, tanh, exp, ln or, above 2,
/// factorial. Throws NeedsPrecision for another name.
RealInterval elementary(std::string_view name, const RealInterval& value);

}  // namespace lockstep::reward
