// Arguments, attributes, items and slices.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>

#include "base/check.h"
#include "text/jinja/builtins.h"
#include "text/jinja/loop.h"
#include "text/jinja/string.h"

namespace lockstep::text::jinja {
namespace {

Value no_attribute(const Value& object, std::string_view name) {
  return Value::undefined(
      fmt::format("'{} object' has no attribute '{}'", type_name(object), name));
}

/// What getattr(object, name) gives in Python, or nothing.
std::optional<Value> python_attribute(const Value& object, std::string_view name) {
  if (name.starts_with("__"))
    return Value::undefined(fmt::format("access to attribute '{}' is unsafe", name));
  if (has_method(object, name)) return Value::function(std::string(name), object);
  if (object.is(Value::Kind::kNamespace)) {
    for (const auto& attribute : object.space()->attributes) {
      if (attribute.first == name) return attribute.second;
    }
  }
  if (object.is(Value::Kind::kLoop)) return object.loop()->walk.attribute(name);
  constexpr std::string_view kMutators[] = {"append", "clear",  "extend",  "insert",
                                            "pop",    "remove", "popitem", "setdefault",
                                            "update", "sort",   "reverse"};
  const bool is_list = object.is_sequence(SequenceKind::kList);
  if ((is_list || object.is_dict()) &&
      std::find(std::begin(kMutators), std::end(kMutators), name) != std::end(kMutators)) {
    const bool is_of_both = name == "clear" || name == "pop";
    const bool is_of_dict = name == "popitem" || name == "setdefault" || name == "update";
    if (is_of_both || is_of_dict == object.is_dict())
      return Value::undefined(
          fmt::format("'{}' would change a {}: unsafe in a template", name, type_name(object)));
  }
  return std::nullopt;
}

/// Python's position of `index` in `length` elements, or -1.
int64_t position(Int index, int64_t length) {
  if (index < 0) index += length;
  return index < 0 || index >= length ? -1 : static_cast<int64_t>(index);
}

/// Positions that a slice visits.
std::vector<int64_t> slice_positions(const std::vector<Value>& bounds, int64_t length) {
  const auto bound = [&](size_t i) -> std::optional<Int> {
    if (bounds[i].is_none()) return std::nullopt;
    if (!bounds[i].is_integral())
      fail_row("expected integers or none in a slice, got '{}'", type_name(bounds[i]));
    // This is behind every element, and no sum below overflows.
    constexpr Int kFar = Int{1} << 62;
    return std::clamp(bounds[i].as_int(), -kFar, kFar);
  };
  const Int step = bound(2).value_or(1);
  if (step == 0) fail_row("expected a step other than zero in a slice");
  const Int lowest = step < 0 ? -1 : 0;
  const Int highest = step < 0 ? length - 1 : length;
  const auto clamp = [&](std::optional<Int> value, Int otherwise) {
    if (!value) return otherwise;
    if (*value < 0) *value += length;
    return std::clamp(*value, lowest, highest);
  };
  const Int start = clamp(bound(0), step < 0 ? highest : lowest);
  const Int stop = clamp(bound(1), step < 0 ? lowest : highest);
  std::vector<int64_t> result;
  for (Int i = start; step > 0 ? i < stop : i > stop; i += step)
    result.push_back(static_cast<int64_t>(i));
  return result;
}

}  // namespace

BoundArguments::BoundArguments(std::string_view callee,
                               const CallArguments& arguments,
                               std::initializer_list<std::string_view> parameters,
                               size_t num_required)
    : callee_(callee), values_(parameters.size(), nullptr) {
  if (arguments.positional.size() > parameters.size())
    fail_template("expected at most {} arguments of {}, got {}", parameters.size(), callee,
                  arguments.positional.size());
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.keyword) {
    const auto found = std::find(parameters.begin(), parameters.end(), name);
    if (found == parameters.end()) fail_template("expected no argument {} of {}", name, callee);
    const Value*& slot = values_[static_cast<size_t>(found - parameters.begin())];
    if (slot != nullptr) fail_template("expected one argument {} of {}, got two", name, callee);
    slot = &value;
  }
  for (size_t i = 0; i < num_required; ++i) {
    if (values_[i] == nullptr)
      fail_template("expected an argument {} of {}, got none", parameters.begin()[i], callee);
  }
}

int64_t BoundArguments::integer(size_t index, int64_t otherwise) const {
  if (!has(index)) return otherwise;
  if (!values_[index]->is_integral())
    fail_row("expected an integer as argument {} of {}, got '{}'", index + 1, callee_,
             type_name(*values_[index]));
  constexpr Int kMost = std::numeric_limits<int64_t>::max();
  return static_cast<int64_t>(std::clamp(values_[index]->as_int(), -kMost, kMost));
}

const std::string& BoundArguments::string(size_t index) const {
  LOCKSTEP_CHECK(has(index), "argument {} of {}", index, callee_);
  if (!values_[index]->is_string())
    fail_row("expected text as argument {} of {}, got '{}'", index + 1, callee_,
             type_name(*values_[index]));
  return values_[index]->bytes();
}

Value get_attribute(const Value& object, std::string_view name) {
  if (object.is_undefined()) fail_row("{}", object.undefined_hint());
  if (const std::optional<Value> found = python_attribute(object, name)) return *found;
  if (object.is_dict()) {
    if (const Value* found = object.dict().find(name)) return *found;
  }
  return no_attribute(object, name);
}

Value get_item(const Value& object, const Value& key) {
  if (object.is_undefined()) fail_row("{}", object.undefined_hint());
  if (object.is_dict()) {
    const bool is_hashable = key.is_string() || key.is_number() || key.is_none();
    const Value* found = is_hashable ? object.dict().find(key) : nullptr;
    if (found != nullptr) return *found;
  } else if (key.is_integral() && object.is_string()) {
    const std::string& text = object.bytes();
    const int64_t at = position(key.as_int(), count_code_points(text));
    if (at >= 0) {
      const size_t begin = byte_offset(text, at);
      const std::string_view rest = std::string_view(text).substr(begin);
      return Value::string(std::string(rest.substr(0, byte_offset(rest, 1))), object.is_markup());
    }
  } else if (key.is_integral() && object.is_sequence()) {
    const Sequence& sequence = object.sequence();
    const bool has_index =
        sequence.kind != SequenceKind::kIterator && sequence.kind != SequenceKind::kView;
    const int64_t at =
        has_index ? position(key.as_int(), static_cast<int64_t>(sequence.items.size())) : -1;
    if (at >= 0) return sequence.items[static_cast<size_t>(at)];
  }
  if (!key.is_string())
    return Value::undefined(fmt::format("'{} object' has no such element", type_name(object)));
  if (const std::optional<Value> found = python_attribute(object, key.bytes())) return *found;
  return no_attribute(object, key.bytes());
}

Value get_slice(const Value& object, const std::vector<Value>& bounds, Budget& budget) {
  if (object.is_undefined()) fail_row("{}", object.undefined_hint());
  if (object.is_string()) {
    const std::u32string text = decode_utf8(object.bytes());
    budget.bytes(text.size() * sizeof(int64_t));
    std::u32string result;
    for (const int64_t at : slice_positions(bounds, static_cast<int64_t>(text.size())))
      result += text[static_cast<size_t>(at)];
    return Value::string(encode_utf8(result), object.is_markup());
  }
  const bool has_slices = object.is_sequence() && !object.is_sequence(SequenceKind::kIterator) &&
                          !object.is_sequence(SequenceKind::kView);
  if (!has_slices) fail_row("expected text or a list to slice, got '{}'", type_name(object));
  const std::vector<Value>& items = object.sequence().items;
  budget.bytes(items.size() * sizeof(Value));
  std::vector<Value> result;
  for (const int64_t at : slice_positions(bounds, static_cast<int64_t>(items.size())))
    result.push_back(items[static_cast<size_t>(at)]);
  return Value::sequence(object.sequence().kind, std::move(result));
}

}  // namespace lockstep::text::jinja
