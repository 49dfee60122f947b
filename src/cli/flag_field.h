// One registered field of an options struct with its type erased. Only flags.cpp and flag_field.cpp
// use it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "cli/flags.h"

namespace lockstep::cli {

/// A field's declaration and access to its member. A template for values and a class for enums
/// derive from it.
class FlagField {
 public:
  explicit FlagField(FieldDeclaration declaration) : declaration_(std::move(declaration)) {}
  virtual ~FlagField() = default;

  const std::string& name() const { return declaration_.name; }
  const std::string& group() const { return declaration_.group; }
  const std::string& help() const { return declaration_.help; }
  OnResume on_resume() const { return declaration_.on_resume; }
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
  FieldDeclaration declaration_;
  std::string where_;
};

}  // namespace lockstep::cli
