// Methods of str, list, dict and loop, and the global functions.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <ctime>
#include <unordered_map>

#include "text/jinja/builtins.h"
#include "text/jinja/loop.h"
#include "text/jinja/string.h"

namespace lockstep::text::jinja {
namespace {

/// A call of a method or function under way.
struct Call {
  std::string_view name;
  const Value& self;
  const CallArguments& arguments;
  Budget& budget;

  const std::string& text() const { return self.bytes(); }
  BoundArguments bind(std::initializer_list<std::string_view> names, size_t required = 0) const {
    return BoundArguments(name, arguments, names, required);
  }
  /// Text with the markup flag of `self`.
  Value like_self(std::string bytes) const {
    budget.bytes(bytes.size());
    return Value::string(std::move(bytes), self.is_markup());
  }
};

using Method = Value (*)(const Call&);
using MethodTable = std::unordered_map<std::string_view, Method>;

// --- str

template <Side kSide>
Value strip_text(const Call& call) {
  const BoundArguments bound = call.bind({"chars"});
  std::optional<std::u32string> characters;
  if (bound.is_given(0)) characters = decode_utf8(bound.string(0));
  return call.like_self(std::string(strip(call.text(), kSide, characters)));
}

template <std::string (*kMap)(std::string_view)>
Value map_text(const Call& call) {
  call.bind({});
  return call.like_self(kMap(call.text()));
}

template <bool (*kTest)(std::string_view)>
Value test_text(const Call& call) {
  call.bind({});
  return Value::boolean(kTest(call.text()));
}

template <bool kFromRight>
Value split_text(const Call& call) {
  const BoundArguments bound = call.bind({"sep", "maxsplit"});
  std::optional<std::string_view> separator;
  if (bound.is_given(0)) separator = bound.string(0);
  if (separator && separator->empty()) fail_row("expected a separator to split at, got \"\"");
  const int64_t limit = bound.integer(1, -1);
  call.budget.bytes(call.text().size());
  std::vector<Value> parts;
  for (std::string& part : kFromRight ? split_from_right(call.text(), separator, limit)
                                      : split(call.text(), separator, limit))
    parts.push_back(Value::string(std::move(part), call.self.is_markup()));
  call.budget.bytes(parts.size() * sizeof(Value));
  return Value::sequence(SequenceKind::kList, std::move(parts));
}

Value split_text_lines(const Call& call) {
  const BoundArguments bound = call.bind({"keepends"});
  std::vector<Value> lines;
  for (std::string& line : split_lines(call.text(), bound.is_true_at(0)))
    lines.push_back(Value::string(std::move(line), call.self.is_markup()));
  call.budget.bytes(call.text().size() + lines.size() * sizeof(Value));
  return Value::sequence(SequenceKind::kList, std::move(lines));
}

/// text[start:end] by code points, and the byte where it begins.
struct Range {
  std::string_view text;
  int64_t first_index = 0;
};
std::optional<Range> searched_range(const Call& call, const BoundArguments& bound) {
  const std::string_view text = call.text();
  const int64_t length = count_code_points(text);
  const auto bound_at = [&](size_t i, int64_t otherwise) {
    int64_t value = bound.is_given(i) ? bound.integer(i, 0) : otherwise;
    if (value < 0) value = std::max<int64_t>(value + length, 0);
    return value;
  };
  const int64_t start = bound_at(1, 0);
  const int64_t end = std::min(bound_at(2, length), length);
  if (start > end) return std::nullopt;
  const size_t begin = byte_offset(text, start);
  return Range{text.substr(begin, byte_offset(text.substr(begin), end - start)), start};
}

template <bool kAtStart>
Value test_affix(const Call& call) {
  const BoundArguments bound = call.bind({"prefix", "start", "end"}, 1);
  const std::optional<Range> range = searched_range(call, bound);
  const auto matches = [&](const Value& affix) {
    if (!affix.is_string())
      fail_row("expected text or a tuple of texts for {}, got '{}'", call.name, type_name(affix));
    if (!range) return false;
    return kAtStart ? range->text.starts_with(affix.bytes()) : range->text.ends_with(affix.bytes());
  };
  if (!bound[0]->is_sequence(SequenceKind::kTuple)) return Value::boolean(matches(*bound[0]));
  const std::vector<Value>& affixes = bound[0]->sequence().items;
  return Value::boolean(std::any_of(affixes.begin(), affixes.end(), matches));
}

template <bool kFromRight, bool kMustFind>
Value find_text(const Call& call) {
  const BoundArguments bound = call.bind({"sub", "start", "end"}, 1);
  const std::optional<Range> range = searched_range(call, bound);
  const std::string& needle = bound.string(0);
  size_t at = std::string_view::npos;
  if (range) at = kFromRight ? range->text.rfind(needle) : range->text.find(needle);
  if (at == std::string_view::npos) {
    if (kMustFind) fail_row("expected text that contains the one searched for");
    return Value::integer(-1);
  }
  return Value::integer(range->first_index + count_code_points(range->text.substr(0, at)));
}

Value count_text(const Call& call) {
  const BoundArguments bound = call.bind({"sub", "start", "end"}, 1);
  const std::optional<Range> range = searched_range(call, bound);
  return Value::integer(range ? count(range->text, bound.string(0)) : 0);
}

Value replace_text(const Call& call) {
  const BoundArguments bound = call.bind({"old", "new", "count"}, 2);
  std::string to = bound.string(1);
  if (call.self.is_markup() && !bound[1]->is_markup()) to = escape_html(to);
  const std::string& from = bound.string(0);
  const int64_t places = count(call.text(), from);
  call.budget.bytes(call.text().size());
  call.budget.bytes(to.size() * static_cast<uint64_t>(places));
  return call.like_self(replace(call.text(), from, to, bound.integer(2, -1)));
}

Value join_text(const Call& call) {
  const BoundArguments bound = call.bind({"iterable"}, 1);
  std::string out;
  bool is_first = true;
  for (const Value& item : elements_of(*bound[0], call.budget)) {
    if (!item.is_string()) fail_row("expected texts to join, got '{}'", type_name(item));
    if (!is_first) out += call.text();
    is_first = false;
    out += call.self.is_markup() && !item.is_markup() ? escape_html(item.bytes()) : item.bytes();
    call.budget.bytes(call.text().size() + item.bytes().size());
  }
  return Value::string(std::move(out), call.self.is_markup());
}

template <bool kFromRight>
Value partition_text(const Call& call) {
  const BoundArguments bound = call.bind({"sep"}, 1);
  const std::string& separator = bound.string(0);
  if (separator.empty()) fail_row("expected a separator to partition at, got \"\"");
  const std::string& text = call.text();
  const size_t at = kFromRight ? text.rfind(separator) : text.find(separator);
  std::array<std::string, 3> parts;
  if (at == text.npos) {
    parts[kFromRight ? 2 : 0] = text;
  } else {
    parts = {text.substr(0, at), separator, text.substr(at + separator.size())};
  }
  std::vector<Value> items;
  for (std::string& part : parts) items.push_back(call.like_self(std::move(part)));
  return Value::sequence(SequenceKind::kTuple, std::move(items));
}

template <bool kAtStart>
Value remove_affix(const Call& call) {
  const BoundArguments bound = call.bind({"affix"}, 1);
  std::string_view text = call.text();
  const std::string& affix = bound.string(0);
  if (kAtStart && text.starts_with(affix)) text.remove_prefix(affix.size());
  if (!kAtStart && text.ends_with(affix)) text.remove_suffix(affix.size());
  return call.like_self(std::string(text));
}

/// ljust, rjust, center and zfill: how much of the padding goes to the left.
enum class Padding : uint8_t { kLeft, kRight, kCenter };
template <Padding kPadding>
Value pad_text(const Call& call) {
  const BoundArguments bound = call.bind({"width", "fillchar"}, 1);
  const std::string fill = bound.has(1) ? bound.string(1) : " ";
  if (count_code_points(fill) != 1) fail_row("expected one character to fill with");
  const int64_t width = bound.integer(0, 0);
  const int64_t missing = std::max<int64_t>(width - count_code_points(call.text()), 0);
  call.budget.bytes(static_cast<uint64_t>(missing) * fill.size());
  // Python's center puts the odd space to the left where the width is odd.
  const int64_t left = kPadding == Padding::kLeft    ? missing
                       : kPadding == Padding::kRight ? 0
                                                     : missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += call.text();
  for (int64_t i = left; i < missing; ++i) out += fill;
  return call.like_self(std::move(out));
}

Value zero_fill(const Call& call) {
  const BoundArguments bound = call.bind({"width"}, 1);
  std::string out = call.text();
  const int64_t missing = std::max<int64_t>(bound.integer(0, 0) - count_code_points(out), 0);
  call.budget.bytes(static_cast<uint64_t>(missing));
  const size_t sign = !out.empty() && (out[0] == '-' || out[0] == '+') ? 1 : 0;
  out.insert(sign, static_cast<size_t>(missing), '0');
  return call.like_self(std::move(out));
}

Value format_text(const Call& call) {
  if (call.self.is_markup()) fail_template("expected plain text to format, got a safe one");
  return Value::string(format_braces(call.text(), call.arguments, call.budget));
}

const MethodTable& string_methods() {
  static const MethodTable table = {
      {"strip", strip_text<Side::kBoth>},
      {"lstrip", strip_text<Side::kLeft>},
      {"rstrip", strip_text<Side::kRight>},
      {"upper", map_text<to_upper>},
      {"lower", map_text<to_lower>},
      {"casefold", map_text<to_lower>},
      {"title", map_text<to_title>},
      {"capitalize", map_text<capitalize>},
      {"swapcase", map_text<swap_case>},
      {"isupper", test_text<is_upper>},
      {"islower", test_text<is_lower>},
      {"isalpha", test_text<is_alpha>},
      {"isdigit", test_text<is_digit>},
      {"isdecimal", test_text<is_digit>},
      {"isnumeric", test_text<is_digit>},
      {"isalnum", test_text<is_alnum>},
      {"isspace", test_text<is_space_only>},
      {"split", split_text<false>},
      {"rsplit", split_text<true>},
      {"splitlines", split_text_lines},
      {"startswith", test_affix<true>},
      {"endswith", test_affix<false>},
      {"find", find_text<false, false>},
      {"rfind", find_text<true, false>},
      {"index", find_text<false, true>},
      {"rindex", find_text<true, true>},
      {"count", count_text},
      {"replace", replace_text},
      {"join", join_text},
      {"partition", partition_text<false>},
      {"rpartition", partition_text<true>},
      {"removeprefix", remove_affix<true>},
      {"removesuffix", remove_affix<false>},
      {"ljust", pad_text<Padding::kRight>},
      {"rjust", pad_text<Padding::kLeft>},
      {"center", pad_text<Padding::kCenter>},
      {"zfill", zero_fill},
      {"format", format_text},
  };
  return table;
}

/// Methods that Python's str has and templates may not use here.
constexpr std::array<std::string_view, 8> kUnknownStringMethods = {
    "encode",  "expandtabs",  "format_map", "isascii",
    "istitle", "isprintable", "maketrans",  "translate"};

// --- dict, list, loop

Value make_list(SequenceKind kind, std::vector<Value> items) {
  return Value::sequence(kind, std::move(items));
}

Value dict_get(const Call& call) {
  const BoundArguments bound = call.bind({"key", "default"}, 1);
  if (const Value* found = call.self.dict().find(*bound[0])) return *found;
  return bound.has(1) ? *bound[1] : Value::none();
}

template <bool kWithKey, bool kWithValue>
Value dict_view(const Call& call) {
  call.bind({});
  std::vector<Value> items;
  call.budget.bytes(call.self.dict().items.size() * sizeof(Value) * 4);
  for (const auto& [key, value] : call.self.dict().items) {
    if (kWithKey && kWithValue) {
      items.push_back(make_list(SequenceKind::kTuple, {key, value}));
    } else {
      items.push_back(kWithKey ? key : value);
    }
  }
  return make_list(SequenceKind::kView, std::move(items));
}

Value copy_self(const Call& call) {
  call.bind({});
  return call.self;
}

Value list_index(const Call& call) {
  const BoundArguments bound = call.bind({"value"}, 1);
  const std::vector<Value>& items = call.self.sequence().items;
  for (size_t i = 0; i < items.size(); ++i) {
    if (are_equal(items[i], *bound[0], call.budget)) return Value::integer(static_cast<Int>(i));
  }
  fail_row("expected a value that is in the list");
}

Value list_count(const Call& call) {
  const BoundArguments bound = call.bind({"value"}, 1);
  const std::vector<Value>& items = call.self.sequence().items;
  return Value::integer(std::count_if(items.begin(), items.end(), [&](const Value& item) {
    return are_equal(item, *bound[0], call.budget);
  }));
}

Value loop_cycle(const Call& call) {
  return call.self.loop()->walk.cycle(call.arguments.positional);
}
Value loop_changed(const Call& call) {
  return call.self.loop()->walk.changed(call.arguments.positional, call.budget);
}

const MethodTable& methods_of(const Value& self) {
  static const MethodTable dict_methods = {{"get", dict_get},
                                           {"keys", dict_view<true, false>},
                                           {"values", dict_view<false, true>},
                                           {"items", dict_view<true, true>},
                                           {"copy", copy_self}};
  static const MethodTable list_methods = {
      {"index", list_index}, {"count", list_count}, {"copy", copy_self}};
  static const MethodTable tuple_methods = {{"index", list_index}, {"count", list_count}};
  static const MethodTable loop_methods = {{"cycle", loop_cycle}, {"changed", loop_changed}};
  static const MethodTable none;
  if (self.is_string()) return string_methods();
  if (self.is_dict()) return dict_methods;
  if (self.is(Value::Kind::kLoop)) return loop_methods;
  if (!self.is_sequence()) return none;
  switch (self.sequence().kind) {
    case SequenceKind::kList:
      return list_methods;
    case SequenceKind::kTuple:
    case SequenceKind::kRange:
      return tuple_methods;
    default:
      return none;
  }
}

// --- functions

Value make_range(const Call& call) {
  const BoundArguments bound = call.bind({"start", "stop", "step"}, 1);
  const int64_t start = bound.has(1) ? bound.integer(0, 0) : 0;
  const int64_t stop = bound.has(1) ? bound.integer(1, 0) : bound.integer(0, 0);
  const int64_t step = bound.integer(2, 1);
  if (step == 0) fail_row("expected a step other than zero in range()");
  std::vector<Value> items;
  for (Int i = start; step > 0 ? i < stop : i > stop; i += step) {
    if (static_cast<int64_t>(items.size()) >= Budget::kMaxRange)
      fail_row("expected at most {} elements in range(), got more", Budget::kMaxRange);
    items.push_back(Value::integer(i));
  }
  call.budget.bytes(items.size() * sizeof(Value));
  return make_list(SequenceKind::kRange, std::move(items));
}

Value make_dict(const Call& call) {
  if (call.arguments.positional.size() > 1)
    fail_template("expected at most one argument of dict, got {}",
                  call.arguments.positional.size());
  std::vector<std::pair<Value, Value>> items;
  if (!call.arguments.positional.empty()) {
    const Value& from = call.arguments.positional[0];
    if (from.is_dict()) {
      items = from.dict().items;
    } else {
      for (const Value& pair : elements_of(from, call.budget)) {
        std::vector<Value> both = elements_of(pair, call.budget);
        if (both.size() != 2) fail_row("expected pairs for dict(), got {} values", both.size());
        set_item(items, std::move(both[0]), std::move(both[1]));
      }
    }
  }
  for (const auto& [name, value] : call.arguments.keyword)
    set_item(items, Value::string(name), value);
  return Value::dict(std::move(items));
}

Value raise_exception(const Call& call) {
  const BoundArguments bound = call.bind({"message"}, 1);
  fail_row("{}", to_string(*bound[0], call.budget));
}

Value format_now(const Call& call) {
  const BoundArguments bound = call.bind({"format"}, 1);
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  // A leading character tells an empty result from a buffer that was too small.
  const std::string format = " " + bound.string(0);
  std::string out(format.size() * 8 + 256, '\0');
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &local));
  return Value::string(out.empty() ? out : out.substr(1));
}

const MethodTable& functions() {
  static const MethodTable table = {{"range", make_range},
                                    {"dict", make_dict},
                                    {"raise_exception", raise_exception},
                                    {"strftime_now", format_now}};
  return table;
}

}  // namespace

bool has_method(const Value& self, std::string_view name) {
  if (methods_of(self).contains(name)) return true;
  return self.is_string() && std::find(kUnknownStringMethods.begin(), kUnknownStringMethods.end(),
                                       name) != kUnknownStringMethods.end();
}

Value find_global(std::string_view name) {
  if (functions().contains(name)) return Value::function(std::string(name));
  for (const std::string_view other : {"cycler", "joiner", "lipsum"}) {
    if (name == other) fail_template("expected a function of chat templates, got {}", name);
  }
  return Value::undefined(fmt::format("'{}' is undefined", name));
}

Value call_function(const Function& function, const CallArguments& arguments, Budget& budget) {
  const bool is_global = function.self.is_undefined();
  const MethodTable& table = is_global ? functions() : methods_of(function.self);
  const auto found = table.find(function.name);
  if (found == table.end())
    fail_template("expected a method of {} that chat templates use, got {}",
                  type_name(function.self), function.name);
  return found->second({function.name, function.self, arguments, budget});
}

}  // namespace lockstep::text::jinja
