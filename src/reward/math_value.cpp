// SPDX-License-Identifier: Apache-2.0
#include "reward/math_value.h"

#include <algorithm>
#include <charconv>

namespace lockstep::reward {
namespace {

std::shared_ptr<Math> blank(MathKind kind) {
  auto result = std::make_shared<Math>();
  result->kind = kind;
  return result;
}

/// 10^exponent.
Rational power_of_ten(int64_t exponent) {
  Integer power;
  mpz_ui_pow_ui(power.get_mpz_t(), 10, static_cast<unsigned long>(std::abs(exponent)));
  return exponent < 0 ? Rational(1, power) : Rational(power);
}

bool are_same_children(const Math& left, const Math& right) {
  const size_t count = left.children.size();
  if (count != right.children.size()) return false;
  const bool is_ordered = left.kind != MathKind::kAdd && left.kind != MathKind::kMultiply &&
                          left.kind != MathKind::kSet && left.kind != MathKind::kUnion;
  std::vector<bool> is_used(count, false);
  for (size_t i = 0; i < count; ++i) {
    bool is_found = false;
    for (size_t j = is_ordered ? i : 0; j < (is_ordered ? i + 1 : count) && !is_found; ++j) {
      if (is_used[j] || !is_same_tree(*left.children[i], *right.children[j])) continue;
      is_used[j] = is_found = true;
    }
    if (!is_found) return false;
  }
  return true;
}

}  // namespace

MathPtr make_math(MathKind kind, std::vector<MathPtr> children, std::string name) {
  auto result = blank(kind);
  result->children = std::move(children);
  result->name = std::move(name);
  return result;
}

MathPtr make_function(std::string name, std::vector<MathPtr> children) {
  return make_math(MathKind::kFunction, std::move(children), std::move(name));
}

MathPtr make_number(Rational value) {
  auto result = blank(MathKind::kNumber);
  result->number = std::move(value);
  return result;
}

MathPtr make_integer(int64_t value) { return make_number(Rational(static_cast<long>(value))); }

MathPtr make_interval(MathPtr left, MathPtr right, bool is_left_open, bool is_right_open) {
  auto result = blank(MathKind::kInterval);
  result->children = {std::move(left), std::move(right)};
  result->is_left_open = is_left_open;
  result->is_right_open = is_right_open;
  return result;
}

MathPtr make_reals() {
  const MathPtr infinity = make_math(MathKind::kInfinity);
  return make_interval(negate(infinity), infinity, /*is_left_open=*/true, /*is_right_open=*/true);
}

MathPtr parse_number(std::string_view text) {
  constexpr int64_t kMostDigits = 20'000;
  std::string digits;
  int64_t exponent = 0;
  const size_t mark = std::min(text.find_first_of("eE"), text.size());
  if (mark < text.size()) {
    std::string_view power = text.substr(mark + 1);
    if (power.starts_with('+')) power.remove_prefix(1);
    const auto [end, error] = std::from_chars(power.data(), power.data() + power.size(), exponent);
    if (error != std::errc() || end != power.data() + power.size()) return nullptr;
  }
  std::string_view mantissa = text.substr(0, mark);
  const bool is_negative = mantissa.starts_with('-');
  if (is_negative) mantissa.remove_prefix(1);
  std::optional<int> places;
  for (const char c : mantissa) {
    if (c == '.' && !places) {
      places = 0;
    } else if (c >= '0' && c <= '9') {
      digits += c;
      if (places) ++*places;
    } else {
      return nullptr;
    }
  }
  exponent -= places.value_or(0);
  const auto length = static_cast<int64_t>(digits.size());
  if (digits.empty() || length > kMostDigits || std::abs(exponent) > kMostDigits) return nullptr;
  auto result = blank(MathKind::kNumber);
  result->number = Rational(Integer(digits, 10)) * power_of_ten(exponent);
  if (is_negative) result->number = -*result->number;
  if (places || result->number->get_den() != 1)
    result->decimal_places = static_cast<int>(std::max<int64_t>(-exponent, 0));
  return result;
}

MathPtr negate(const MathPtr& value) {
  if (value->is_number()) {
    auto result = std::make_shared<Math>(*value);
    result->number = -*result->number;
    return result;
  }
  return make_math(MathKind::kMultiply, {make_integer(-1), value});
}

MathPtr reciprocal(const MathPtr& value) {
  return make_math(MathKind::kPower, {value, make_integer(-1)});
}

bool has_symbols(const Math& value) {
  return contains(value, [](const Math& part) { return part.kind == MathKind::kSymbol; });
}

int sign_of_infinity(const Math& value) {
  if (value.kind == MathKind::kInfinity) return 1;
  if (value.kind != MathKind::kMultiply || value.children.size() != 2) return 0;
  const Math& sign = *value.children[0];
  const bool is_minus = sign.is_number() && *sign.number == -1;
  return is_minus ? -sign_of_infinity(*value.children[1]) : 0;
}

bool is_same_tree(const Math& left, const Math& right) {
  return left.kind == right.kind && left.name == right.name && left.number == right.number &&
         left.is_left_open == right.is_left_open && left.is_right_open == right.is_right_open &&
         left.operators == right.operators && are_same_children(left, right);
}

}  // namespace lockstep::reward
