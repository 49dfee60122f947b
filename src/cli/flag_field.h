// One registered field of an options struct with its type erased. Only flags.cpp and flag_field.cpp
// use it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "cli/flags.h"

namespace lockstep::cli {

/// A field's declaration and access to its member. A template for values and a class for enums
/// derive from it.
class FlagField {
 public:
  FlagField(std::string_view name, std::string_view group, std::string_view help)
      : name_(name), group_(group), help_(help) {}
  virtual ~FlagField() = default;

  const std::string& name() const { return name_; }
  const std::string& group() const { return group_; }
  const std::string& help() const { return help_; }
  const std::string& where() const { return where_; }

  /// Stores the values, or the default for null. Throws ConfigError "bad-flag".
  void assign(const Assignment& assignment);
  virtual Json get() const = 0;
  virtual Json default_value() const = 0;
  /// What values it takes, for errors: "a number in (0, 1]", "one of grpo, dapo".
  virtual std::string expectation() const = 0;
  /// The same in short for --help: "NUMBER", "TEXT …".
  virtual std::string placeholder() const = 0;
  /// The limits for --help: ">= 0", "grpo|dapo"; "" if there are none.
  virtual std::string limits() const = 0;

 protected:
  /// Returns false if the field does not take the values.
  virtual bool set(const std::vector<std::string>& values) = 0;
  virtual void reset() = 0;

 private:
  std::string name_, group_, help_, where_;
};

}  // namespace lockstep::cli
