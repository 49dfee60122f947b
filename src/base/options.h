// What an options struct says about its fields. One for_each_field(visit) in each struct is the
// only place where a flag is declared: the command line, configuration files, --help, args.json and
// checks are visitors (cli/flags.h).
// SPDX-License-Identifier: Apache-2.0
//
//   struct SamplingOptions {
//     double temperature = 0.9;
//     template <class Visitor> void for_each_field(Visitor&& visit) {
//       visit("temperature", temperature, "Divides the logits.", Range::at_least(0));
//     }
//   };
//
// A field's type is bool, int64_t, double, std::string, std::vector<std::string>, std::optional of
// these, or an enum class with an `enum_names` overload found by argument-dependent lookup (see
// EnumName).
#pragma once

#include <limits>
#include <optional>
#include <string_view>

namespace lockstep {

/// Legal range of a number; text fields use the default, which allows everything.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  /// `low` itself is not allowed.
  bool low_open = false;
  /// `high` itself is not allowed.
  bool high_open = false;

  static constexpr Range any() { return {}; }
  static constexpr Range at_least(double low) { return {.low = low}; }
  static constexpr Range above(double low) { return {.low = low, .low_open = true}; }
  static constexpr Range between(double low, double high) { return {.low = low, .high = high}; }
  /// (low, high]
  static constexpr Range left_open(double low, double high) {
    return {.low = low, .high = high, .low_open = true};
  }
  /// What logits may be divided or multiplied by (a temperature, a penalty): the factor, its
  /// inverse, and either times any logit below 1e18, stay finite in float32.
  static constexpr Range logit_factor() { return {.low = 1e-20, .high = 1e20}; }
  bool contains(double value) const {
    return (low_open ? value > low : value >= low) && (high_open ? value < high : value <= high);
  }
};

/// One enumerator and its name on the command line. An enum offers
///   // The argument only selects the overload.
///   std::span<const EnumName<LossType>> enum_names(LossType);
template <class Enum>
struct EnumName {
  Enum value;
  std::string_view name;
};

/// The name of an enumerator, which its list has.
template <class Enum>
std::string_view enum_name(Enum value) {
  for (const EnumName<Enum>& entry : enum_names(value))
    if (entry.value == value) return entry.name;
  return {};
}

/// The enumerator of such a name; unset for another text.
template <class Enum>
std::optional<Enum> enum_of_name(std::string_view name) {
  for (const EnumName<Enum>& entry : enum_names(Enum{}))
    if (entry.name == name) return entry.value;
  return {};
}

}  // namespace lockstep
