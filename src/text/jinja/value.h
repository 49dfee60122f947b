// The values of the Jinja interpreter: Python's, as far as chat templates can make them.
// SPDX-License-Identifier: Apache-2.0
//
// Values are immutable but for namespaces. Containers are shared; namespaces, macros and loops
// belong to the rendering (interpreter.cpp), so that no cycle of owners can arise.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/json_fwd.h"
#include "text/jinja/error.h"

namespace lockstep::text::jinja {

/// Wide enough for every integer that JSON can carry here (int64 and uint64).
__extension__ typedef __int128 Int;

class Value;
struct Dict;
struct Sequence;
struct Function;
struct Namespace;
struct Macro;
struct Loop;
struct Parts;

/// A Python str; `is_markup` marks what the filter `safe` made, whose `+` escapes the other side.
struct Text {
  /// UTF-8.
  std::string bytes;
  bool is_markup = false;
  /// Where its bytes came from (output.h): of a text captured from the output, until it is
  /// changed; null otherwise.
  std::shared_ptr<const Parts> parts;
};

enum class SequenceKind : uint8_t {
  kList,
  kTuple,
  kRange,
  /// A generator: always true, has no length, can be walked once.
  kIterator,
  /// dict.keys(), .values() and .items().
  kView,
};

class Value {
 public:
  /// In the order of the alternatives of `data_`.
  enum class Kind : uint8_t {
    kUndefined,
    kNone,
    kBool,
    kInt,
    kFloat,
    kString,
    kSequence,
    kDict,
    kNamespace,
    kFunction,
    kMacro,
    kLoop,
  };

  /// An undefined value without a name.
  Value() = default;
  /// `hint` is the sentence shown when the value is used: "'x' is undefined".
  static Value undefined(std::string hint);
  static Value none();
  static Value boolean(bool value);
  static Value integer(Int value);
  static Value real(double value);
  static Value string(std::string bytes, bool is_markup = false);
  /// A text taken from the output, with its parts or null.
  static Value captured(std::string bytes, std::shared_ptr<const Parts> parts);
  /// Throws JinjaError where values nest too deeply.
  static Value sequence(SequenceKind kind, std::vector<Value> items);
  static Value dict(std::vector<std::pair<Value, Value>> items);
  /// A built-in function, or the method `name` of `self`.
  static Value function(std::string name, Value self = {});
  /// These do not own: the rendering does.
  static Value reference(Namespace* space);
  static Value reference(const Macro* macro);
  static Value reference(Loop* loop);

  Kind kind() const { return static_cast<Kind>(data_.index()); }
  bool is(Kind wanted) const { return kind() == wanted; }
  bool is_undefined() const { return is(Kind::kUndefined); }
  bool is_none() const { return is(Kind::kNone); }
  bool is_string() const { return is(Kind::kString); }
  bool is_sequence() const { return is(Kind::kSequence); }
  bool is_sequence(SequenceKind wanted) const;
  bool is_dict() const { return is(Kind::kDict); }
  bool is_markup() const { return is_string() && text().is_markup; }
  /// Whether Python's int accepts it: an integer or a bool.
  bool is_integral() const { return is(Kind::kInt) || is(Kind::kBool); }
  bool is_number() const { return is_integral() || is(Kind::kFloat); }

  bool as_bool() const { return std::get<bool>(data_); }
  /// An integer or a bool as an integer.
  Int as_int() const { return is(Kind::kBool) ? Int{as_bool()} : std::get<Int>(data_); }
  /// Any number as a double.
  double as_double() const;
  const Text& text() const { return *std::get<TextPointer>(data_); }
  const std::string& bytes() const { return text().bytes; }
  const Sequence& sequence() const { return *std::get<SequencePointer>(data_); }
  const Dict& dict() const { return *std::get<DictPointer>(data_); }
  Namespace* space() const { return std::get<Namespace*>(data_); }
  const Function& function() const { return *std::get<FunctionPointer>(data_); }
  const Macro* macro() const { return std::get<const Macro*>(data_); }
  Loop* loop() const { return std::get<Loop*>(data_); }

  /// The sentence of an undefined value.
  std::string undefined_hint() const;
  /// Levels of containers in it.
  int depth() const;
  /// Python's `is`: one object, or equal None, True and False.
  bool is_same_object(const Value& other) const;

 private:
  struct Undefined {
    std::shared_ptr<const std::string> hint;
  };
  struct None {};
  using TextPointer = std::shared_ptr<const Text>;
  using SequencePointer = std::shared_ptr<const Sequence>;
  using DictPointer = std::shared_ptr<const Dict>;
  using FunctionPointer = std::shared_ptr<const Function>;
  std::variant<Undefined,
               None,
               bool,
               Int,
               double,
               TextPointer,
               SequencePointer,
               DictPointer,
               Namespace*,
               FunctionPointer,
               const Macro*,
               Loop*>
      data_;
};

/// The object that namespace() makes.
struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
};

struct Sequence {
  SequenceKind kind = SequenceKind::kList;
  std::vector<Value> items;
  int depth = 1;
  /// How many elements of an iterator have been taken.
  mutable size_t next = 0;
};

/// A mapping in the order of insertion; keys are strings, numbers, bools or None.
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  int depth = 1;

  /// The value of `key`, or null. Throws JinjaError for a key that Python cannot hash.
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
};

/// Sets items[key] = value, in place where the key exists.
void set_item(std::vector<std::pair<Value, Value>>& items, Value key, Value value);

struct Function {
  std::string name;
  /// Undefined for a global function.
  Value self;
  int depth = 1;
};

/// Positional and keyword arguments of a call.
struct CallArguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keyword;
};

// Python's built-in behaviour of values.

/// bool(value).
bool is_true(const Value& value);
/// str(value); undefined is "".
std::string to_string(const Value& value, Budget& budget);
/// repr(value).
std::string to_repr(const Value& value, Budget& budget);
/// repr of a float: shortest digits that read back, "1e+16", "inf", "nan".
std::string float_repr(double value);
std::string integer_digits(Int value);
/// type(value).__name__.
std::string_view type_name(const Value& value);
/// left == right.
bool are_equal(const Value& left, const Value& right, Budget& budget);
/// Negative, zero or positive; throws JinjaError "bad-row" for values without an order.
int compare(const Value& left, const Value& right, Budget& budget);
/// The elements that a for loop visits; throws JinjaError "bad-row" for what is not iterable.
std::vector<Value> elements_of(const Value& value, Budget& budget);
bool is_iterable(const Value& value);
/// len(value), or nothing where Python's len fails.
std::optional<int64_t> length_of(const Value& value);
/// `item in container`.
bool contains(const Value& container, const Value& item, Budget& budget);

/// json.dumps' options.
struct JsonStyle {
  bool ensure_ascii = false;
  /// The text of one level; unset is one line.
  std::optional<std::string> indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};
std::string to_json(const Value& value, const JsonStyle& style, Budget& budget);
Value from_json(const Json& json);

}  // namespace lockstep::text::jinja
