// Reads the dictionary of --lr_scheduler_kwargs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/json.h"
#include "base/options.h"
#include "train/schedule_type.h"

namespace lockstep::train {

/// The dictionary of --lr_scheduler_kwargs. At the end every key in it must have been asked for.
class ScheduleKeywords {
 public:
  static constexpr const char* kFlag = "--lr_scheduler_kwargs";

  explicit ScheduleKeywords(const Json& values) : values_(values) {}

  std::optional<double> number(const char* key, Range range) const {
    const Json* value = find(key);
    if (!value) return {};
    if (!value->is_number() || !range.contains(value->get<double>()))
      bad(key, range.low > 0 || range.low_open ? "a positive number" : "a number of at least 0",
          *value);
    return value->get<double>();
  }
  std::optional<int64_t> count(const char* key) const {
    const Json* value = find(key);
    if (!value) return {};
    if (!value->is_number_integer() || value->get<int64_t>() < 0)
      bad(key, "a whole number of at least 0", *value);
    return value->get<int64_t>();
  }
  bool is_true(const char* key) const {
    const Json* value = find(key);
    if (value && !value->is_boolean()) bad(key, "true or false", *value);
    return value && value->get<bool>();
  }
  /// Whether it is `yes` rather than `no`; unset: `standard`.
  bool choice(const char* key, const char* yes, const char* no, bool standard) const {
    const Json* value = find(key);
    if (!value) return standard;
    if (*value != Json(yes) && *value != Json(no))
      bad(key, fmt::format("{} or {}", yes, no).c_str(), *value);
    return *value == Json(yes);
  }
  RampShape shape(const char* key, RampShape standard) const {
    const Json* value = find(key);
    if (!value) return standard;
    if (*value == Json("linear")) return RampShape::kLinear;
    if (*value == Json("cosine")) return RampShape::kCosine;
    if (*value != Json("1-sqrt")) bad(key, "linear, cosine or 1-sqrt", *value);
    return RampShape::kOneMinusSqrt;
  }

  void check_all_known(std::string_view type) const {
    if (!values_.is_object()) return;
    for (const auto& [key, value] : values_.items())
      if (std::find(asked_.begin(), asked_.end(), key) == asked_.end())
        fail<ConfigError>("bad-flag", kFlag, "expected {} for {}, got {}",
                          asked_.empty() ? "no key" : fmt::format("{}", fmt::join(asked_, ", ")),
                          type, key);
  }

 private:
  const Json* find(const char* key) const {
    asked_.emplace_back(key);
    if (!values_.is_object()) return nullptr;
    const auto found = values_.find(key);
    return found == values_.end() || found->is_null() ? nullptr : &*found;
  }
  [[noreturn]] void bad(const char* key, const char* expected, const Json& value) const {
    fail<ConfigError>("bad-flag", kFlag, "{}: expected {}, got {}", key, expected,
                      dump_json(value));
  }

  const Json& values_;
  mutable std::vector<std::string> asked_;
};

}  // namespace lockstep::train
