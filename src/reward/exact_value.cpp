// Evaluation on GMP's fractions, with a bound on their size before each operation.
// SPDX-License-Identifier: Apache-2.0
#include "reward/exact_value.h"

#include <algorithm>
#include <cmath>

namespace lockstep::reward {
namespace {

using Exact = std::optional<Rational>;

constexpr size_t kMostBits = size_t{1} << 19;

size_t bits_of(const Integer& value) { return mpz_sizeinbase(value.get_mpz_t(), 2); }
size_t bits_of(const Rational& value) {
  return bits_of(value.get_num()) + bits_of(value.get_den());
}
bool is_integer(const Rational& value) { return value.get_den() == 1; }

/// `value` as an int64, or nothing.
std::optional<int64_t> small_integer(const Rational& value) {
  if (!is_integer(value) || !value.get_num().fits_slong_p()) return std::nullopt;
  return value.get_num().get_si();
}

class Evaluator {
 public:
  Evaluator(WorkBudget& work, const Point* point) : work_(work), point_(point) {}

  Exact value_of(const Math& value) {
    work_.spend(8);
    switch (value.kind) {
      case MathKind::kNumber:
        return value.number;
      case MathKind::kSymbol:
        return point_ ? Exact((*point_)[value.name]) : std::nullopt;
      case MathKind::kPercent: {
        const Exact number = value_of(*value.children[0]);
        return number ? Exact(*number / 100) : std::nullopt;
      }
      case MathKind::kAdd:
      case MathKind::kMultiply:
        return fold(value);
      case MathKind::kPower: {
        const Exact base = value_of(*value.children[0]), exponent = value_of(*value.children[1]);
        return base && exponent ? power(*base, *exponent) : std::nullopt;
      }
      case MathKind::kFunction:
        return function(value);
      default:
        return std::nullopt;
    }
  }

 private:
  /// Books an operation whose result has at most `bits`; false where that is too large.
  bool may_have(double bits) {
    if (!(bits <= static_cast<double>(kMostBits))) return false;
    work_.spend(static_cast<int64_t>(bits) / 4 + 1);
    return true;
  }

  Exact fold(const Math& value) {
    const bool is_sum = value.kind == MathKind::kAdd;
    Rational result = is_sum ? 0 : 1;
    for (const MathPtr& child : value.children) {
      const Exact part = value_of(*child);
      if (!part || !may_have(static_cast<double>(bits_of(result) + bits_of(*part))))
        return std::nullopt;
      if (is_sum)
        result += *part;
      else
        result *= *part;
    }
    return result;
  }

  Exact power(const Rational& base, const Rational& exponent) {
    if (base == 0) {
      if (exponent <= 0) throw UndefinedValue{};
      return base;
    }
    constexpr unsigned long kHighestRoot = 64;
    if (exponent.get_den() > kHighestRoot) return std::nullopt;
    const unsigned long degree = exponent.get_den().get_ui();
    const Exact root = degree == 1 ? base : exact_root(base, degree);
    return root ? integer_power(*root, exponent.get_num()) : std::nullopt;
  }

  /// The root if it is a fraction; of negative numbers only the odd ones are.
  Exact exact_root(const Rational& value, unsigned long degree) {
    if (value < 0 && degree % 2 == 0) return std::nullopt;
    if (!may_have(static_cast<double>(bits_of(value)))) return std::nullopt;
    Integer num, den;
    const bool is_exact = mpz_root(num.get_mpz_t(), value.get_num_mpz_t(), degree) != 0 &&
                          mpz_root(den.get_mpz_t(), value.get_den_mpz_t(), degree) != 0;
    return is_exact ? Exact(Rational(num, den)) : std::nullopt;
  }

  Exact integer_power(const Rational& base, const Integer& exponent) {
    if (base == 1 || base == -1) return base == 1 || exponent % 2 == 0 ? 1 : -1;
    const Integer size = abs(exponent);
    if (!size.fits_ulong_p()) return std::nullopt;
    const unsigned long count = size.get_ui();
    if (!may_have(static_cast<double>(bits_of(base)) * static_cast<double>(count)))
      return std::nullopt;
    Integer num, den;
    mpz_pow_ui(num.get_mpz_t(), base.get_num_mpz_t(), count);
    mpz_pow_ui(den.get_mpz_t(), base.get_den_mpz_t(), count);
    Rational result = exponent < 0 ? Rational(den, num) : Rational(num, den);
    result.canonicalize();  // the sign of a negative denominator
    return result;
  }

  Exact function(const Math& value) {
    std::vector<Rational> arguments;
    for (const MathPtr& child : value.children) {
      Exact argument = value_of(*child);
      if (!argument) return std::nullopt;
      arguments.push_back(std::move(*argument));
    }
    if (arguments.empty()) return std::nullopt;
    const std::string& name = value.name;
    const Rational& first = arguments[0];
    if (name == "abs") return abs(first);
    if (name == "degrees") return first;
    if (name == "floor") return Rational(floor_of(first));
    if (name == "ceil") return Rational(-floor_of(-first));
    if (name == "sign") return Rational(sgn(first));
    if (name == "max") return *std::max_element(arguments.begin(), arguments.end());
    if (name == "min") return *std::min_element(arguments.begin(), arguments.end());
    if (name == "factorial" || name == "double factorial") return factorial(name, first);
    if (name == "gcd" || name == "lcm") return common(name, arguments);
    if (arguments.size() != 2) return std::nullopt;
    if (name == "binomial") return binomial(first, arguments[1]);
    if (name == "ratio") return quotient(first, arguments[1]);
    if (name == "remainder") {
      const Exact times = quotient(first, arguments[1]);
      return times ? Exact(first - Rational(floor_of(*times)) * arguments[1]) : std::nullopt;
    }
    return std::nullopt;
  }

  Exact quotient(const Rational& above, const Rational& below) {
    if (below == 0) throw UndefinedValue{};
    if (!may_have(static_cast<double>(bits_of(above) + bits_of(below)))) return std::nullopt;
    return above / below;
  }

  Exact factorial(std::string_view name, const Rational& of) {
    if (is_integer(of) && of < 0) throw UndefinedValue{};
    const std::optional<int64_t> count = small_integer(of);
    if (!count) return std::nullopt;
    const double steps = static_cast<double>(*count);
    if (!may_have(steps * std::log2(steps + 2))) return std::nullopt;
    Integer result;
    if (name == "factorial")
      mpz_fac_ui(result.get_mpz_t(), static_cast<unsigned long>(*count));
    else
      mpz_2fac_ui(result.get_mpz_t(), static_cast<unsigned long>(*count));
    return Rational(result);
  }

  Exact binomial(const Rational& from, const Rational& chosen) {
    const std::optional<int64_t> n = small_integer(from), k = small_integer(chosen);
    if (!n || !k || *n < 0) return std::nullopt;
    if (*k < 0 || *k > *n) return Rational(0);
    const int64_t steps = std::min(*k, *n - *k);
    if (!may_have(static_cast<double>(steps) * std::log2(static_cast<double>(*n) + 2)))
      return std::nullopt;
    Integer result;
    mpz_bin_uiui(result.get_mpz_t(), static_cast<unsigned long>(*n),
                 static_cast<unsigned long>(steps));
    return Rational(result);
  }

  Exact common(std::string_view name, const std::vector<Rational>& arguments) {
    Integer result = arguments[0].get_num();
    for (const Rational& argument : arguments) {
      if (!is_integer(argument)) return std::nullopt;
      if (!may_have(static_cast<double>(bits_of(result) + bits_of(argument)))) return std::nullopt;
      if (name == "gcd")
        result = gcd(result, argument.get_num());
      else
        result = lcm(result, argument.get_num());
    }
    return Rational(result);
  }

  WorkBudget& work_;
  const Point* point_;
};

/// A well-mixed hash: FNV-1a, then a finaliser.
uint64_t hash_of(std::string_view text, uint64_t seed) {
  uint64_t hash = 0xcbf29ce484222325ULL ^ (seed * 0x9E3779B97F4A7C15ULL);
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  hash ^= hash >> 29;
  hash *= 0xBF58476D1CE4E5B9ULL;
  return hash ^ (hash >> 32);
}

}  // namespace

Rational Point::operator[](std::string_view symbol) const {
  const uint64_t hash = hash_of(symbol, seed);
  if (is_integer) return Rational(static_cast<unsigned long>(1 + (hash >> 16) % 40));
  // Between 1/2 and 3, where functions and their inverses are neither huge nor cut off.
  constexpr unsigned long kParts = 4096;
  Rational size(static_cast<unsigned long>(kParts / 2 + (hash >> 16) % (5 * kParts / 2)), kParts);
  size.canonicalize();
  return (hash & 1) != 0 ? size : Rational(-size);
}

std::optional<Rational> exact_value(const Math& value, WorkBudget& work, const Point* point) {
  return Evaluator(work, point).value_of(value);
}

MathPtr simplified(const MathPtr& value, WorkBudget& work) {
  if (const std::optional<Rational> exact = exact_value(*value, work)) return make_number(*exact);
  // Formulas share parts: what a few products build may be walked through for ever.
  contains(*value, [&](const Math&) {
    work.spend(4);
    return false;
  });
  return value;
}

Integer floor_of(const Rational& value) {
  Integer result;
  mpz_fdiv_q(result.get_mpz_t(), value.get_num_mpz_t(), value.get_den_mpz_t());
  return result;
}

Integer nearest_integer(const Rational& value) {
  const Integer below = floor_of(value);
  const int side = cmp(value - Rational(below), Rational(1, 2));
  return side < 0 || (side == 0 && below % 2 == 0) ? below : Integer(below + 1);
}

}  // namespace lockstep::reward
