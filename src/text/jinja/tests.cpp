// Jinja's tests: {{ value is defined }}.
// SPDX-License-Identifier: Apache-2.0
#include <unordered_map>

#include "text/jinja/builtins.h"
#include "text/jinja/string.h"

namespace lockstep::text::jinja {
namespace {

struct TestCall {
  std::string_view name;
  const Value& value;
  const CallArguments& arguments;
  Budget& budget;

  void bind_none() const { BoundArguments(name, arguments, {}); }
  /// The only argument.
  const Value& other() const {
    if (arguments.positional.size() != 1 || !arguments.keyword.empty())
      fail_template("expected one argument of the test {}", name);
    return arguments.positional[0];
  }
};

using Test = bool (*)(const TestCall&);

template <bool (*kTest)(const Value&)>
bool plain(const TestCall& call) {
  call.bind_none();
  return kTest(call.value);
}

bool is_defined(const Value& value) { return !value.is_undefined(); }
bool is_undefined(const Value& value) { return value.is_undefined(); }
bool is_none(const Value& value) { return value.is_none(); }
bool is_string(const Value& value) { return value.is_string(); }
bool is_mapping(const Value& value) { return value.is_dict(); }
bool is_number(const Value& value) { return value.is_number(); }
bool is_boolean(const Value& value) { return value.is(Value::Kind::kBool); }
bool is_integer(const Value& value) { return value.is(Value::Kind::kInt); }
bool is_float(const Value& value) { return value.is(Value::Kind::kFloat); }
bool is_the_true(const Value& value) { return is_boolean(value) && value.as_bool(); }
bool is_the_false(const Value& value) { return is_boolean(value) && !value.as_bool(); }
bool is_escaped(const Value& value) { return value.is_markup(); }
/// What has len() and an index: text and mappings too, and undefined, as in Jinja.
bool is_indexed(const Value& value) {
  return length_of(value).has_value() && !value.is_sequence(SequenceKind::kView);
}
bool is_callable(const Value& value) {
  return value.is(Value::Kind::kFunction) || value.is(Value::Kind::kMacro) ||
         value.is(Value::Kind::kLoop) || value.is_undefined();
}

bool is_in(const TestCall& call) { return contains(call.other(), call.value, call.budget); }
bool is_equal(const TestCall& call) { return are_equal(call.value, call.other(), call.budget); }
bool is_unequal(const TestCall& call) { return !is_equal(call); }
bool is_less(const TestCall& call) { return compare(call.value, call.other(), call.budget) < 0; }
bool is_less_equal(const TestCall& call) {
  return compare(call.value, call.other(), call.budget) <= 0;
}
bool is_greater(const TestCall& call) { return compare(call.value, call.other(), call.budget) > 0; }
bool is_greater_equal(const TestCall& call) {
  return compare(call.value, call.other(), call.budget) >= 0;
}
bool is_same(const TestCall& call) { return call.value.is_same_object(call.other()); }

bool has_remainder(const TestCall& call, const Value& divisor, int64_t remainder) {
  const Value rest = apply_operator(Operator::kModulo, call.value, divisor, call.budget);
  return are_equal(rest, Value::integer(remainder), call.budget);
}
bool is_odd(const TestCall& call) { return has_remainder(call, Value::integer(2), 1); }
bool is_even(const TestCall& call) { return has_remainder(call, Value::integer(2), 0); }
bool is_divisible(const TestCall& call) { return has_remainder(call, call.other(), 0); }

bool is_lower_text(const TestCall& call) { return is_lower(to_string(call.value, call.budget)); }
bool is_upper_text(const TestCall& call) { return is_upper(to_string(call.value, call.budget)); }
bool is_filter_name(const TestCall& call) {
  return call.value.is_string() && is_filter(call.value.bytes());
}
bool is_test_name(const TestCall& call) {
  return call.value.is_string() && is_test(call.value.bytes());
}

const std::unordered_map<std::string_view, Test>& tests() {
  static const std::unordered_map<std::string_view, Test> table = {
      {"defined", plain<is_defined>},
      {"undefined", plain<is_undefined>},
      {"none", plain<is_none>},
      {"string", plain<is_string>},
      {"mapping", plain<is_mapping>},
      {"number", plain<is_number>},
      {"boolean", plain<is_boolean>},
      {"integer", plain<is_integer>},
      {"float", plain<is_float>},
      {"true", plain<is_the_true>},
      {"false", plain<is_the_false>},
      {"escaped", plain<is_escaped>},
      {"sequence", plain<is_indexed>},
      {"iterable", plain<is_iterable>},
      {"callable", plain<is_callable>},
      {"in", is_in},
      {"==", is_equal},
      {"eq", is_equal},
      {"equalto", is_equal},
      {"!=", is_unequal},
      {"ne", is_unequal},
      {"<", is_less},
      {"lt", is_less},
      {"lessthan", is_less},
      {"<=", is_less_equal},
      {"le", is_less_equal},
      {">", is_greater},
      {"gt", is_greater},
      {"greaterthan", is_greater},
      {">=", is_greater_equal},
      {"ge", is_greater_equal},
      {"sameas", is_same},
      {"odd", is_odd},
      {"even", is_even},
      {"divisibleby", is_divisible},
      {"lower", is_lower_text},
      {"upper", is_upper_text},
      {"filter", is_filter_name},
      {"test", is_test_name},
  };
  return table;
}

}  // namespace

bool is_test(std::string_view name) { return tests().contains(name); }

bool apply_test(std::string_view name,
                const Value& value,
                const CallArguments& arguments,
                Budget& budget) {
  const auto found = tests().find(name);
  if (found == tests().end()) fail_template("expected a test of chat templates, got {}", name);
  return found->second({name, value, arguments, budget});
}

}  // namespace lockstep::text::jinja
