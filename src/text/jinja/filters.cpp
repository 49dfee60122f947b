// Jinja's filters. Those that take an attribute or another filter are in
// sequence_filters.cpp.
// SPDX-License-Identifier: Apache-2.0
#include <charconv>
#include <cmath>
#include <unordered_map>

#include "text/jinja/builtins.h"
#include "text/jinja/filter_table.h"
#include "text/jinja/string.h"

namespace lockstep::text::jinja {
namespace {

/// Jinja's soft_str: text stays as it is, markup included.
Value as_text(const FilterCall& call) {
  if (call.input.is_string()) return call.input;
  return Value::string(to_string(call.input, call.budget));
}

template <std::string (*kMap)(std::string_view)>
Value map_text(const FilterCall& call) {
  call.bind({});
  const Value text = as_text(call);
  call.budget.bytes(text.bytes().size());
  return Value::string(kMap(text.bytes()), text.is_markup());
}

Value filter_string(const FilterCall& call) {
  call.bind({});
  return as_text(call);
}

Value filter_safe(const FilterCall& call) {
  call.bind({});
  return Value::string(to_string(call.input, call.budget), /*is_markup=*/true);
}

Value filter_escape(const FilterCall& call) {
  call.bind({});
  if (call.input.is_markup()) return call.input;
  return Value::string(escape_html(to_string(call.input, call.budget)), /*is_markup=*/true);
}

Value filter_trim(const FilterCall& call) {
  const BoundArguments bound = call.bind({"chars"});
  std::optional<std::u32string> characters;
  if (bound.is_given(0)) characters = decode_utf8(bound.string(0));
  const Value text = as_text(call);
  call.budget.bytes(text.bytes().size());
  return Value::string(std::string(strip(text.bytes(), Side::kBoth, characters)), text.is_markup());
}

/// Capitals behind white space and opening brackets, as in Jinja's own title (not Python's).
std::string title_words(std::string_view text) {
  std::string out;
  bool starts_word = true;
  for (const char32_t c : decode_utf8(text)) {
    std::string one;
    append_utf8(one, c);
    const bool separates = is_space(c) || std::string_view("-({[<").find(one) != std::string::npos;
    out += separates ? one : starts_word ? to_upper(one) : to_lower(one);
    starts_word = separates;
  }
  return out;
}

Value filter_title(const FilterCall& call) {
  call.bind({});
  return Value::string(title_words(as_text(call).bytes()));
}

Value filter_replace(const FilterCall& call) {
  const BoundArguments bound = call.bind({"old", "new", "count"}, 2);
  const std::string text = to_string(call.input, call.budget);
  const std::string from = to_string(*bound[0], call.budget);
  const std::string to = to_string(*bound[1], call.budget);
  const int64_t limit = bound.is_given(2) ? bound.integer(2, -1) : -1;
  call.budget.bytes(text.size() + to.size() * static_cast<uint64_t>(count(text, from)));
  return Value::string(replace(text, from, to, limit));
}

Value filter_indent(const FilterCall& call) {
  const BoundArguments bound = call.bind({"width", "first", "blank"});
  std::string indention(4, ' ');
  if (bound.has(0)) {
    const int64_t width = bound[0]->is_string() ? 0 : bound.integer(0, 4);
    call.budget.bytes(static_cast<uint64_t>(std::max<int64_t>(width, 0)));
    indention = bound[0]->is_string()
                    ? bound[0]->bytes()
                    : std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  if (!call.input.is_string()) fail_row("expected text to indent, got '{}'", type_name(call.input));
  const std::vector<std::string> lines = split_lines(call.input.bytes() + "\n", false);
  call.budget.bytes(call.input.bytes().size() + indention.size() * lines.size());
  std::string out = bound.is_true_at(1) ? indention : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (bound.is_true_at(2) || !lines[i].empty())) out += indention;
    out += lines[i];
  }
  return Value::string(std::move(out), call.input.is_markup());
}

Value filter_format(const FilterCall& call) {
  if (!call.arguments.keyword.empty() && !call.arguments.positional.empty())
    fail_template("expected positional or keyword arguments of format, got both");
  const Value text = as_text(call);
  std::vector<std::pair<Value, Value>> named;
  for (const auto& [name, value] : call.arguments.keyword)
    named.emplace_back(Value::string(name), value);
  const Value values = named.empty()
                           ? Value::sequence(SequenceKind::kTuple, call.arguments.positional)
                           : Value::dict(std::move(named));
  return Value::string(format_percent(text.text(), values, call.budget), text.is_markup());
}

Value filter_default(const FilterCall& call) {
  const BoundArguments bound = call.bind({"default_value", "boolean"});
  const bool replaces = call.input.is_undefined() || (bound.is_true_at(1) && !is_true(call.input));
  if (!replaces) return call.input;
  return bound.has(0) ? *bound[0] : Value::string("");
}

Value filter_length(const FilterCall& call) {
  call.bind({});
  const std::optional<int64_t> length = length_of(call.input);
  if (!length) fail_row("expected a value with a length, got '{}'", type_name(call.input));
  return Value::integer(*length);
}

Value filter_tojson(const FilterCall& call) {
  const BoundArguments bound = call.bind({"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = bound.is_true_at(0);
  if (bound.is_given(1)) {
    style.item_separator.assign(1, ',');
    if (bound[1]->is_string()) {
      style.indent = bound[1]->bytes();
    } else {
      const int64_t width = std::max<int64_t>(bound.integer(1, 0), 0);
      call.budget.bytes(static_cast<uint64_t>(width));
      style.indent = std::string(static_cast<size_t>(width), ' ');
    }
  }
  if (bound.is_given(2)) {
    const std::vector<Value> both = elements_of(*bound[2], call.budget);
    if (both.size() != 2 || !both[0].is_string() || !both[1].is_string())
      fail_row("expected two texts as separators of tojson");
    style.item_separator = both[0].bytes();
    style.key_separator = both[1].bytes();
  }
  style.sort_keys = bound.is_true_at(3);
  return Value::string(to_json(call.input, style, call.budget));
}

/// Python's int(text, base), or nothing.
std::optional<Int> parse_int(std::string_view text, int64_t base) {
  text = strip(text);
  const bool is_negative = text.starts_with('-');
  if (is_negative || text.starts_with('+')) text.remove_prefix(1);
  const std::string lower = to_lower(text.substr(0, 2));
  const bool has_prefix =
      (base == 16 && lower == "0x") || (base == 8 && lower == "0o") || (base == 2 && lower == "0b");
  if (has_prefix) text.remove_prefix(2);
  Int result = 0;
  bool after_digit = has_prefix;
  for (const char c : text) {
    if (c == '_' && after_digit) {
      after_digit = false;
      continue;
    }
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'z' ? c - 'a' + 10
                      : c >= 'A' && c <= 'Z' ? c - 'A' + 10
                                             : 99;
    if (digit >= base) return std::nullopt;
    after_digit = true;
    if (__builtin_mul_overflow(result, Int{base}, &result) ||
        __builtin_add_overflow(result, Int{digit}, &result))
      fail_template("expected integers of 128 bits, got more digits");
  }
  if (!after_digit || text.empty()) return std::nullopt;
  return is_negative ? -result : result;
}

/// Python's float(text), or nothing.
std::optional<double> parse_float(std::string_view text) {
  text = strip(text);
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto is_digit_at = [&](size_t at) {
      return at < text.size() && text[at] >= '0' && text[at] <= '9';
    };
    if (text[i] != '_') {
      plain += text[i];
    } else if (i == 0 || !is_digit_at(i - 1) || !is_digit_at(i + 1)) {
      return std::nullopt;
    }
  }
  const size_t begin = plain.starts_with('+') && !plain.starts_with("+-") ? 1 : 0;
  if (plain.find('(') != plain.npos) return std::nullopt;
  double value = 0;
  const char* end = plain.data() + plain.size();
  const auto read = std::from_chars(plain.data() + begin, end, value);
  if (read.ptr != end || read.ec == std::errc::invalid_argument) return std::nullopt;
  // Out of range: strtod knows whether that is zero or infinity.
  return read.ec == std::errc() ? value : std::strtod(plain.c_str(), nullptr);
}

std::optional<double> to_float(const Value& value) {
  if (value.is_number()) return value.as_double();
  if (value.is_string()) return parse_float(value.bytes());
  if (value.is_undefined()) fail_row("{}", value.undefined_hint());
  return std::nullopt;
}

std::optional<Int> truncate(double value) {
  if (std::isnan(value)) return std::nullopt;
  if (!(std::fabs(value) < 1e38)) fail_template("expected integers of 128 bits, got {}", value);
  return static_cast<Int>(value);
}

Value filter_int(const FilterCall& call) {
  const BoundArguments bound = call.bind({"default", "base"});
  const int64_t base = bound.integer(1, 10);
  if (base < 2 || base > 36) fail_row("expected a base between 2 and 36, got {}", base);
  std::optional<Int> result;
  if (call.input.is_integral()) {
    result = call.input.as_int();
  } else {
    if (call.input.is_string()) result = parse_int(call.input.bytes(), base);
    if (!result) {
      if (const std::optional<double> number = to_float(call.input)) result = truncate(*number);
    }
  }
  if (result) return Value::integer(*result);
  return bound.has(0) ? *bound[0] : Value::integer(0);
}

Value filter_float(const FilterCall& call) {
  const BoundArguments bound = call.bind({"default"});
  if (const std::optional<double> result = to_float(call.input)) return Value::real(*result);
  return bound.has(0) ? *bound[0] : Value::real(0.0);
}

Value filter_abs(const FilterCall& call) {
  call.bind({});
  const bool is_negative = call.input.is_number() && call.input.as_double() < 0;
  if (call.input.is_number() && !is_negative && !call.input.is(Value::Kind::kBool))
    return call.input.is(Value::Kind::kFloat) ? Value::real(std::fabs(call.input.as_double()))
                                              : call.input;
  if (call.input.is(Value::Kind::kBool)) return Value::integer(call.input.as_int());
  return negate(call.input);
}

Value filter_round(const FilterCall& call) {
  const BoundArguments bound = call.bind({"precision", "method"});
  const int64_t precision = bound.integer(0, 0);
  const std::string method = bound.has(1) ? bound.string(1) : "common";
  if (!call.input.is_number())
    fail_row("expected a number to round, got '{}'", type_name(call.input));
  if (precision < 0 || precision > 300)
    fail_template("expected a precision between 0 and 300 to round to, got {}", precision);
  const double value = call.input.as_double();
  if (method == "common") {
    if (call.input.is_integral()) return Value::integer(call.input.as_int());
    // Rounds the exact binary value, halves to even, as Python does.
    return Value::real(std::strtod(fmt::format("{:.{}f}", value, precision).c_str(), nullptr));
  }
  if (method != "ceil" && method != "floor")
    fail_template("expected common, ceil or floor to round with, got {}", method);
  const double scale = std::pow(10.0, static_cast<double>(precision));
  return Value::real((method == "ceil" ? std::ceil(value * scale) : std::floor(value * scale)) /
                     scale);
}

Value filter_attr(const FilterCall& call) {
  const BoundArguments bound = call.bind({"name"}, 1);
  // Only attributes, never items: a mapping's keys do not count.
  if (call.input.is_dict() && !has_method(call.input, bound.string(0)))
    return Value::undefined(fmt::format("'dict object' has no attribute '{}'", bound.string(0)));
  return get_attribute(call.input, bound.string(0));
}

}  // namespace

const FilterTable& text_filters() {
  static const FilterTable table = {
      {"abs", filter_abs},
      {"attr", filter_attr},
      {"capitalize", map_text<capitalize>},
      {"count", filter_length},
      {"d", filter_default},
      {"default", filter_default},
      {"e", filter_escape},
      {"escape", filter_escape},
      {"float", filter_float},
      {"format", filter_format},
      {"indent", filter_indent},
      {"int", filter_int},
      {"length", filter_length},
      {"lower", map_text<to_lower>},
      {"replace", filter_replace},
      {"round", filter_round},
      {"safe", filter_safe},
      {"string", filter_string},
      {"title", filter_title},
      {"tojson", filter_tojson},
      {"trim", filter_trim},
      {"upper", map_text<to_upper>},
  };
  return table;
}

bool is_filter(std::string_view name) {
  return text_filters().contains(name) || sequence_filters().contains(name);
}

Value apply_filter(std::string_view name,
                   const Value& input,
                   const CallArguments& arguments,
                   Budget& budget) {
  for (const FilterTable* table : {&text_filters(), &sequence_filters()}) {
    const auto found = table->find(name);
    if (found != table->end()) return found->second({found->first, input, arguments, budget});
  }
  fail_template("expected a filter of chat templates, got {}", name);
}

}  // namespace lockstep::text::jinja
