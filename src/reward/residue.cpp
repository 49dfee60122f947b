// SPDX-License-Identifier: Apache-2.0
#include "reward/residue.h"

namespace lockstep::reward {
namespace {

__extension__ typedef unsigned __int128 Wide;

class Residues {
 public:
  Residues(uint64_t prime, WorkBudget& work, const Point* point)
      : prime_(prime), work_(work), point_(point) {}

  std::optional<uint64_t> of(const Math& value) {
    work_.spend(8);
    if (const std::optional<Rational> exact = exact_value(value, work_, point_))
      return residue(*exact);
    switch (value.kind) {
      case MathKind::kAdd:
      case MathKind::kMultiply: {
        const bool is_sum = value.kind == MathKind::kAdd;
        uint64_t result = is_sum ? 0 : 1;
        for (const MathPtr& child : value.children) {
          const std::optional<uint64_t> part = of(*child);
          if (!part) return std::nullopt;
          result = is_sum ? (result + *part) % prime_ : times(result, *part);
        }
        return result;
      }
      case MathKind::kPower:
        return power_of(*value.children[0], *value.children[1]);
      case MathKind::kFunction:
        return value.name == "factorial" ? factorial(*value.children[0]) : std::nullopt;
      default:
        return std::nullopt;
    }
  }

 private:
  uint64_t times(uint64_t left, uint64_t right) const {
    return static_cast<uint64_t>(Wide{left} * right % prime_);
  }

  uint64_t power(uint64_t base, uint64_t exponent) const {
    uint64_t result = 1;
    for (; exponent > 0; exponent >>= 1, base = times(base, base))
      if (exponent & 1) result = times(result, base);
    return result;
  }

  std::optional<uint64_t> residue(const Rational& value) const {
    const uint64_t num = residue(value.get_num()), den = residue(value.get_den());
    if (den == 0) return std::nullopt;
    return times(num, power(den, prime_ - 2));
  }
  uint64_t residue(const Integer& value) const {
    return mpz_fdiv_ui(value.get_mpz_t(), static_cast<unsigned long>(prime_));
  }

  std::optional<uint64_t> power_of(const Math& base, const Math& exponent) {
    const std::optional<Rational> count = exact_value(exponent, work_, point_);
    if (!count || count->get_den() != 1) return std::nullopt;
    const std::optional<uint64_t> base_residue = of(base);
    if (!base_residue || *base_residue == 0) return std::nullopt;
    // The order of a residue divides prime - 1.
    return power(*base_residue,
                 mpz_fdiv_ui(count->get_num_mpz_t(), static_cast<unsigned long>(prime_ - 1)));
  }

  std::optional<uint64_t> factorial(const Math& of_value) {
    constexpr unsigned long kMost = 10'000'000;
    const std::optional<Rational> count = exact_value(of_value, work_, point_);
    if (!count || count->get_den() != 1 || *count < 0 || *count > kMost) return std::nullopt;
    const unsigned long last = count->get_num().get_ui();
    work_.spend(static_cast<int64_t>(last));
    uint64_t result = 1;
    for (unsigned long i = 2; i <= last; ++i) result = times(result, i);
    return result;
  }

  uint64_t prime_;
  WorkBudget& work_;
  const Point* point_;
};

}  // namespace

std::optional<uint64_t> residue_of(const Math& value,
                                   uint64_t prime,
                                   WorkBudget& work,
                                   const Point* point) {
  return Residues(prime, work, point).of(value);
}

}  // namespace lockstep::reward
