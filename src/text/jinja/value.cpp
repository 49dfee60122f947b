// Making values, and what Python's operators say about them. Texts of values (str, repr, JSON) are
// in dump.cpp.
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja/value.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "text/jinja/string.h"

namespace lockstep::text::jinja {
namespace {

int checked_depth(int inner) {
  if (inner >= Budget::kMaxDepth)
    fail_template("expected at most {} levels of nested values, got more", Budget::kMaxDepth);
  return inner + 1;
}

int three_way(double left, double right) { return left < right ? -1 : left > right ? 1 : 0; }

int compare_numbers(const Value& left, const Value& right) {
  if (left.is_integral() && right.is_integral()) {
    const Int a = left.as_int(), b = right.as_int();
    return a < b ? -1 : a > b ? 1 : 0;
  }
  return three_way(left.as_double(), right.as_double());
}

bool are_equal_numbers(const Value& left, const Value& right) {
  if (left.is_integral() && right.is_integral()) return left.as_int() == right.as_int();
  // This is false for NaN, as in Python.
  return left.as_double() == right.as_double();
}

bool are_equal_keys(const Value& left, const Value& right) {
  if (left.is_string() && right.is_string()) return left.bytes() == right.bytes();
  if (left.is_number() && right.is_number()) return are_equal_numbers(left, right);
  return left.is_none() && right.is_none();
}

void check_hashable(const Value& key) {
  if (key.is_string() || key.is_number() || key.is_none()) return;
  if (key.is_sequence(SequenceKind::kTuple))
    fail_template("expected text, numbers, booleans or none as keys of a mapping, got a tuple");
  fail_row("expected a key of a mapping, got an unhashable '{}'", type_name(key));
}

bool are_equal_items(const std::vector<Value>& left,
                     const std::vector<Value>& right,
                     Budget& budget) {
  return std::equal(left.begin(), left.end(), right.begin(), right.end(),
                    [&](const Value& a, const Value& b) { return are_equal(a, b, budget); });
}

bool are_equal_dicts(const Dict& left, const Dict& right, Budget& budget) {
  if (left.items.size() != right.items.size()) return false;
  for (const auto& [key, value] : left.items) {
    const Value* other = right.find(key);
    if (other == nullptr || !are_equal(value, *other, budget)) return false;
  }
  return true;
}

}  // namespace

Value Value::undefined(std::string hint) {
  Value result;
  result.data_ = Undefined{std::make_shared<const std::string>(std::move(hint))};
  return result;
}
Value Value::none() {
  Value result;
  result.data_ = None{};
  return result;
}
Value Value::boolean(bool value) {
  Value result;
  result.data_ = value;
  return result;
}
Value Value::integer(Int value) {
  Value result;
  result.data_ = value;
  return result;
}
Value Value::real(double value) {
  Value result;
  result.data_ = value;
  return result;
}
Value Value::string(std::string bytes, bool is_markup) {
  Value result;
  result.data_ = std::make_shared<const Text>(Text{std::move(bytes), is_markup, nullptr});
  return result;
}
Value Value::captured(std::string bytes, std::shared_ptr<const Parts> parts) {
  Value result;
  result.data_ = std::make_shared<const Text>(Text{std::move(bytes), false, std::move(parts)});
  return result;
}
Value Value::sequence(SequenceKind kind, std::vector<Value> items) {
  int inner = 0;
  for (const Value& item : items) inner = std::max(inner, item.depth());
  Value result;
  result.data_ =
      std::make_shared<const Sequence>(Sequence{kind, std::move(items), checked_depth(inner)});
  return result;
}
Value Value::dict(std::vector<std::pair<Value, Value>> items) {
  int inner = 0;
  for (const auto& item : items) inner = std::max(inner, item.second.depth());
  Value result;
  result.data_ = std::make_shared<const Dict>(Dict{std::move(items), checked_depth(inner)});
  return result;
}
Value Value::function(std::string name, Value self) {
  const int depth = checked_depth(self.depth());
  Value result;
  result.data_ =
      std::make_shared<const Function>(Function{std::move(name), std::move(self), depth});
  return result;
}
Value Value::reference(Namespace* space) {
  Value result;
  result.data_ = space;
  return result;
}
Value Value::reference(const Macro* macro) {
  Value result;
  result.data_ = macro;
  return result;
}
Value Value::reference(Loop* loop) {
  Value result;
  result.data_ = loop;
  return result;
}

bool Value::is_sequence(SequenceKind wanted) const {
  return is_sequence() && sequence().kind == wanted;
}

double Value::as_double() const {
  return is(Kind::kFloat) ? std::get<double>(data_) : static_cast<double>(as_int());
}

std::string Value::undefined_hint() const {
  const auto& hint = std::get<Undefined>(data_).hint;
  return hint ? *hint : "a value is undefined";
}

int Value::depth() const {
  switch (kind()) {
    case Kind::kSequence:
      return sequence().depth;
    case Kind::kDict:
      return dict().depth;
    case Kind::kFunction:
      return function().depth;
    default:
      return 0;
  }
}

bool Value::is_same_object(const Value& other) const {
  if (kind() != other.kind()) return false;
  switch (kind()) {
    case Kind::kUndefined:
      return false;
    case Kind::kNone:
      return true;
    case Kind::kBool:
      return as_bool() == other.as_bool();
    case Kind::kInt:
      return as_int() == other.as_int();
    case Kind::kFloat:
      return false;
    case Kind::kString:
      return &text() == &other.text();
    case Kind::kSequence:
      return &sequence() == &other.sequence();
    case Kind::kDict:
      return &dict() == &other.dict();
    case Kind::kNamespace:
      return space() == other.space();
    case Kind::kFunction:
      return &function() == &other.function();
    case Kind::kMacro:
      return macro() == other.macro();
    case Kind::kLoop:
      return loop() == other.loop();
  }
  return false;
}

const Value* Dict::find(const Value& key) const {
  check_hashable(key);
  for (const auto& item : items) {
    if (are_equal_keys(item.first, key)) return &item.second;
  }
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  for (const auto& item : items) {
    if (item.first.is_string() && item.first.bytes() == key) return &item.second;
  }
  return nullptr;
}

void set_item(std::vector<std::pair<Value, Value>>& items, Value key, Value value) {
  check_hashable(key);
  for (auto& item : items) {
    if (are_equal_keys(item.first, key)) {
      item.second = std::move(value);
      return;
    }
  }
  items.emplace_back(std::move(key), std::move(value));
}

bool is_true(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kUndefined:
    case Value::Kind::kNone:
      return false;
    case Value::Kind::kBool:
      return value.as_bool();
    case Value::Kind::kInt:
      return value.as_int() != 0;
    case Value::Kind::kFloat:
      return value.as_double() != 0;
    case Value::Kind::kString:
      return !value.bytes().empty();
    case Value::Kind::kSequence:
      return value.sequence().kind == SequenceKind::kIterator || !value.sequence().items.empty();
    case Value::Kind::kDict:
      return !value.dict().items.empty();
    default:
      return true;
  }
}

std::string_view type_name(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kUndefined:
      return "Undefined";
    case Value::Kind::kNone:
      return "NoneType";
    case Value::Kind::kBool:
      return "bool";
    case Value::Kind::kInt:
      return "int";
    case Value::Kind::kFloat:
      return "float";
    case Value::Kind::kString:
      return value.is_markup() ? "Markup" : "str";
    case Value::Kind::kDict:
      return "dict";
    case Value::Kind::kNamespace:
      return "Namespace";
    case Value::Kind::kFunction:
      return "function";
    case Value::Kind::kMacro:
      return "Macro";
    case Value::Kind::kLoop:
      return "LoopContext";
    case Value::Kind::kSequence:
      break;
  }
  switch (value.sequence().kind) {
    case SequenceKind::kList:
      return "list";
    case SequenceKind::kTuple:
      return "tuple";
    case SequenceKind::kRange:
      return "range";
    case SequenceKind::kIterator:
      return "generator";
    case SequenceKind::kView:
      return "dict view";
  }
  return "";
}

bool are_equal(const Value& left, const Value& right, Budget& budget) {
  budget.step();
  if (left.is_number() && right.is_number()) return are_equal_numbers(left, right);
  if (left.kind() != right.kind()) return false;
  switch (left.kind()) {
    case Value::Kind::kUndefined:
    case Value::Kind::kNone:
      return true;
    case Value::Kind::kString:
      return left.bytes() == right.bytes();
    case Value::Kind::kDict:
      return are_equal_dicts(left.dict(), right.dict(), budget);
    case Value::Kind::kSequence:
      if (left.is_same_object(right)) return true;
      return left.sequence().kind == right.sequence().kind &&
             !left.is_sequence(SequenceKind::kIterator) &&
             are_equal_items(left.sequence().items, right.sequence().items, budget);
    default:
      return left.is_same_object(right);
  }
}

int compare(const Value& left, const Value& right, Budget& budget) {
  budget.step();
  if (left.is_number() && right.is_number()) return compare_numbers(left, right);
  if (left.is_string() && right.is_string()) {
    // Comparing bytes is enough, since UTF-8 keeps the order of code points.
    const int order = left.bytes().compare(right.bytes());
    return order < 0 ? -1 : order > 0 ? 1 : 0;
  }
  for (const Value* side : {&left, &right}) {
    if (side->is_undefined())
      fail_row("expected two values to compare, but {}", side->undefined_hint());
  }
  const bool have_order =
      left.is_sequence() && right.is_sequence() && left.sequence().kind == right.sequence().kind &&
      (left.is_sequence(SequenceKind::kList) || left.is_sequence(SequenceKind::kTuple));
  if (!have_order)
    fail_row("expected values with an order, got '{}' and '{}'", type_name(left), type_name(right));
  const auto& a = left.sequence().items;
  const auto& b = right.sequence().items;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (!are_equal(a[i], b[i], budget)) return compare(a[i], b[i], budget);
  }
  return a.size() < b.size() ? -1 : a.size() > b.size() ? 1 : 0;
}

bool is_iterable(const Value& value) {
  return value.is_undefined() || value.is_string() || value.is_sequence() || value.is_dict() ||
         value.is(Value::Kind::kLoop);
}

std::vector<Value> elements_of(const Value& value, Budget& budget) {
  std::vector<Value> result;
  if (value.is_string()) {
    const std::string& text = value.bytes();
    budget.bytes(text.size() * sizeof(Value));
    for (const char32_t c : decode_utf8(text)) {
      std::string one;
      append_utf8(one, c);
      result.push_back(Value::string(std::move(one)));
    }
  } else if (value.is_sequence()) {
    const Sequence& sequence = value.sequence();
    budget.bytes(sequence.items.size() * sizeof(Value));
    result.assign(sequence.items.begin() + static_cast<std::ptrdiff_t>(sequence.next),
                  sequence.items.end());
    if (sequence.kind == SequenceKind::kIterator) sequence.next = sequence.items.size();
  } else if (value.is_dict()) {
    budget.bytes(value.dict().items.size() * sizeof(Value));
    for (const auto& item : value.dict().items) result.push_back(item.first);
  } else if (value.is(Value::Kind::kLoop)) {
    fail_template("expected values to loop over, got the variable loop itself");
  } else if (!value.is_undefined()) {
    fail_row("expected something to loop over, got '{}'", type_name(value));
  }
  return result;
}

std::optional<int64_t> length_of(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kUndefined:
      return 0;
    case Value::Kind::kString:
      return count_code_points(value.bytes());
    case Value::Kind::kDict:
      return static_cast<int64_t>(value.dict().items.size());
    case Value::Kind::kSequence:
      if (value.sequence().kind == SequenceKind::kIterator) return std::nullopt;
      return static_cast<int64_t>(value.sequence().items.size());
    default:
      return std::nullopt;
  }
}

bool contains(const Value& container, const Value& item, Budget& budget) {
  if (container.is_string()) {
    if (!item.is_string())
      fail_row("expected text to search for in text, got '{}'", type_name(item));
    return container.bytes().find(item.bytes()) != std::string::npos;
  }
  if (container.is_dict()) return container.dict().find(item) != nullptr;
  for (const Value& element : elements_of(container, budget)) {
    if (are_equal(element, item, budget)) return true;
  }
  return false;
}

Value from_json(const Json& json) {
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value::boolean(json.get<bool>());
    case Json::value_t::number_integer:
      return Value::integer(json.get<int64_t>());
    case Json::value_t::number_unsigned:
      return Value::integer(json.get<uint64_t>());
    case Json::value_t::number_float:
      return Value::real(json.get<double>());
    case Json::value_t::string:
      return Value::string(json.get_ref<const std::string&>());
    case Json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const Json& item : json) items.push_back(from_json(item));
      return Value::sequence(SequenceKind::kList, std::move(items));
    }
    case Json::value_t::object: {
      std::vector<std::pair<Value, Value>> items;
      items.reserve(json.size());
      for (const auto& [key, item] : json.items())
        items.emplace_back(Value::string(key), from_json(item));
      return Value::dict(std::move(items));
    }
    default:
      return Value::none();
  }
}

}  // namespace lockstep::text::jinja
