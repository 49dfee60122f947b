// What Jinja and Python offer: operators, attributes, methods, filters, tests and functions.
// SPDX-License-Identifier: Apache-2.0
//
// All throw JinjaError: "bad-template" for what is not known here, "bad-row" where Python would
// refuse the values.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/value.h"

namespace lockstep::text::jinja {

/// The arguments of a call under their parameters' names.
class BoundArguments {
 public:
  /// Throws JinjaError "bad-template" for unknown, doubled, surplus or missing arguments.
  BoundArguments(std::string_view callee,
                 const CallArguments& arguments,
                 std::initializer_list<std::string_view> parameters,
                 size_t num_required = 0);
  /// The argument of a parameter, or null.
  const Value* operator[](size_t index) const { return values_[index]; }
  bool has(size_t index) const { return values_[index] != nullptr; }
  /// has() and not None.
  bool is_given(size_t index) const { return has(index) && !values_[index]->is_none(); }
  bool is_true_at(size_t index) const { return has(index) && is_true(*values_[index]); }
  /// An int argument; `otherwise` if it is absent.
  int64_t integer(size_t index, int64_t otherwise) const;
  /// A str argument; throws for other types.
  const std::string& string(size_t index) const;

 private:
  std::string_view callee_;
  std::vector<const Value*> values_;
};

/// A binary operator of Python, + to **.
Value apply_operator(Operator symbol, const Value& left, const Value& right, Budget& budget);
Value negate(const Value& value);
/// str % arguments.
std::string format_percent(const Text& text, const Value& arguments, Budget& budget);
/// str.format with fields {}, {0} and {name}.
std::string format_braces(std::string_view text, const CallArguments& arguments, Budget& budget);

/// object.name and object[key], as in Jinja's sandbox; undefined if there is none.
Value get_attribute(const Value& object, std::string_view name);
Value get_item(const Value& object, const Value& key);
/// object[start:stop:step]; the bounds are none or integers.
Value get_slice(const Value& object, const std::vector<Value>& bounds, Budget& budget);

/// A method of a str, list, dict or loop, or a global function.
Value call_function(const Function& function, const CallArguments& arguments, Budget& budget);
/// Whether `self` has a method of that name that a template may call.
bool has_method(const Value& self, std::string_view name);
/// A global function (range, dict, raise_exception, strftime_now), or undefined.
Value find_global(std::string_view name);

bool is_filter(std::string_view name);
Value apply_filter(std::string_view name,
                   const Value& input,
                   const CallArguments& arguments,
                   Budget& budget);

bool is_test(std::string_view name);
bool apply_test(std::string_view name,
                const Value& value,
                const CallArguments& arguments,
                Budget& budget);

}  // namespace lockstep::text::jinja
