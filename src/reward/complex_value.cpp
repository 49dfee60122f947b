// SPDX-License-Identifier: Apache-2.0
#include "reward/complex_value.h"

#include <cstdlib>

#include "reward/exact_value.h"
#include "reward/real_value.h"

namespace lockstep::reward {
namespace {

bool is_imaginary_unit(const Math& value) {
  return value.kind == MathKind::kSymbol && value.name == "i";
}

/// Thrown for what is no such formula. It never leaves complex_parts.
struct NoComplexNumber {};

class ComplexEvaluator {
 public:
  explicit ComplexEvaluator(WorkBudget& work) : work_(work) {}

  ComplexParts parts_of(const MathPtr& value) {
    work_.spend(16);
    if (is_imaginary_unit(*value)) return {make_integer(0), make_integer(1)};
    switch (value->kind) {
      case MathKind::kNumber:
      case MathKind::kPi:
      case MathKind::kEuler:
      case MathKind::kPercent:
        return real(value);
      case MathKind::kAdd: {
        ComplexParts sum = real(make_integer(0));
        for (const MathPtr& child : value->children) sum = add(sum, parts_of(child));
        return sum;
      }
      case MathKind::kMultiply: {
        ComplexParts product = real(make_integer(1));
        for (const MathPtr& child : value->children) product = multiply(product, parts_of(child));
        return product;
      }
      case MathKind::kPower:
        return power(value);
      case MathKind::kFunction:
        return function(value);
      default:
        throw NoComplexNumber{};
    }
  }

 private:
  static ComplexParts real(MathPtr value) { return {std::move(value), make_integer(0)}; }
  MathPtr sum(const MathPtr& left, const MathPtr& right) {
    return simplified(make_math(MathKind::kAdd, {left, right}), work_);
  }
  MathPtr product(const MathPtr& left, const MathPtr& right) {
    return simplified(make_math(MathKind::kMultiply, {left, right}), work_);
  }
  static MathPtr root(const MathPtr& value) {
    return make_math(MathKind::kPower, {value, make_number(Rational(1, 2))});
  }

  ComplexParts add(const ComplexParts& left, const ComplexParts& right) {
    return {sum(left.real, right.real), sum(left.imaginary, right.imaginary)};
  }
  ComplexParts multiply(const ComplexParts& left, const ComplexParts& right) {
    return {sum(product(left.real, right.real), negate(product(left.imaginary, right.imaginary))),
            sum(product(left.real, right.imaginary), product(left.imaginary, right.real))};
  }
  MathPtr square_of_size(const ComplexParts& value) {
    return sum(product(value.real, value.real), product(value.imaginary, value.imaginary));
  }
  bool is_zero(const MathPtr& value) { return is_equal_value(*value, *make_integer(0), work_); }

  ComplexParts power(const MathPtr& value) {
    const MathPtr& exponent = value->children[1];
    if (value->children[0]->kind == MathKind::kEuler) return exponential(parts_of(exponent));
    const ComplexParts base = parts_of(value->children[0]);
    const std::optional<Rational> number = exact_value(*exponent, work_);
    const bool is_real = is_zero(base.imaginary);
    if (is_real && number == Rational(1, 2) &&
        compare_values(*base.real, *make_integer(0), work_) == Comparison::kLess)
      return {make_integer(0), root(negate(base.real))};
    if (is_real && !has_symbols(*exponent))
      return real(make_math(MathKind::kPower, {base.real, exponent}));
    if (!number) throw NoComplexNumber{};
    return whole_power(base, *number);
  }

  ComplexParts whole_power(const ComplexParts& base, const Rational& exponent) {
    constexpr long kHighest = 64;
    if (exponent.get_den() != 1 || abs(exponent) > kHighest) throw NoComplexNumber{};
    ComplexParts result = real(make_integer(1));
    for (long i = 0; i < std::labs(exponent.get_num().get_si()); ++i)
      result = multiply(result, base);
    if (exponent >= 0) return result;
    const MathPtr size = reciprocal(square_of_size(result));
    return {product(result.real, size), negate(product(result.imaginary, size))};
  }

  ComplexParts exponential(const ComplexParts& exponent) {
    const MathPtr size = make_math(MathKind::kPower, {make_math(MathKind::kEuler), exponent.real});
    return {product(size, make_function("cos", {exponent.imaginary})),
            product(size, make_function("sin", {exponent.imaginary}))};
  }

  ComplexParts function(const MathPtr& value) {
    if (value->name == "abs") return real(root(square_of_size(parts_of(value->children[0]))));
    if (has_symbols(*value)) throw NoComplexNumber{};
    return real(value);
  }

  WorkBudget& work_;
};

}  // namespace

bool has_imaginary_unit(const Math& value) { return contains(value, is_imaginary_unit); }

bool uses_imaginary_unit(const Math& value) {
  return contains(value, [](const Math& part) {
    const bool is_exponential =
        part.kind == MathKind::kPower && part.children[0]->kind == MathKind::kEuler;
    return (part.kind == MathKind::kAdd || part.is_function("abs") || is_exponential) &&
           has_imaginary_unit(part);
  });
}

std::optional<ComplexParts> complex_parts(const MathPtr& value, WorkBudget& work) {
  try {
    return ComplexEvaluator(work).parts_of(value);
  } catch (const NoComplexNumber&) {
    return std::nullopt;
  }
}

}  // namespace lockstep::reward
