// Strict JSON on nlohmann's lexer: objects are built by appending, with one hash set of keys for
// each level.
// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/file.h"

namespace lockstep {
namespace {

/// An input iterator that tells how far the lexer has read: nlohmann's callbacks do not say where
/// they are.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, const char** furthest) : at_(at), furthest_(furthest) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    *furthest_ = ++at_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** furthest_;
};

/// The part of nlohmann's message that says what is wrong, in printable ASCII and of bounded
/// length.
std::string readable_reason(std::string_view message) {
  // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error while parsing
  // …"
  if (const size_t id = message.find("] "); id != message.npos) message.remove_prefix(id + 2);
  if (message.substr(0, 11) == "parse error") {
    if (const size_t colon = message.find(": "); colon != message.npos)
      message.remove_prefix(colon + 2);
  }
  constexpr size_t kLongest = 160;
  std::string result;
  for (const char c : message.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      result += c;
    } else {
      result += fmt::format("\\x{:02x}", byte);
    }
  }
  if (message.size() > kLongest) result += "...";
  return result;
}

std::string dump_scalar(const Json& value) {
  // Replaces what is not UTF-8 instead of throwing: a log line must not end a run.
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// Marks a binary value, which JSON does not have otherwise, as the text of a number.
constexpr uint64_t kDigits = 1;

Json kept_digits(std::string_view text) {
  return Json::binary({text.begin(), text.end()}, kDigits);
}

bool has_kept_digits(const Json& value) {
  if (!value.is_structured()) return value.is_binary();
  return std::any_of(value.begin(), value.end(), has_kept_digits);
}

std::string_view digits_of(const Json& value) {
  const auto& bytes = value.get_binary();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// A decimal as digits without zeros around them, and the power of ten that they are multiplied by.
struct Decimal {
  std::string digits;
  int64_t exponent = 0;
  bool operator==(const Decimal&) const = default;
};

Decimal decimal_of(std::string_view text) {
  Decimal result;
  const size_t mark = std::min(text.find_first_of("eE"), text.size());
  std::string_view exponent = text.substr(std::min(mark + 1, text.size()));
  if (exponent.starts_with('+')) exponent.remove_prefix(1);
  std::from_chars(exponent.data(), exponent.data() + exponent.size(), result.exponent);
  bool is_behind_point = false;
  for (const char c : text.substr(0, mark)) {
    if (c == '.') is_behind_point = true;
    if (c < '0' || c > '9') continue;
    if (c != '0' || !result.digits.empty()) result.digits += c;
    result.exponent -= is_behind_point;
  }
  while (result.digits.ends_with('0')) {
    result.digits.pop_back();
    ++result.exponent;
  }
  if (result.digits.empty()) result.exponent = 0;
  return result;
}

/// Whether the shortest text of `value`, which is how it is written again, says what `text` says.
bool is_exact(double value, std::string_view text) {
  return decimal_of(dump_scalar(value)) == decimal_of(text);
}

/// Numbers that are too large for a double, by their place among all numbers of a text.
using LargeNumbers = std::map<int64_t, std::string>;

/// Whether a text is a number by JSON's grammar.
bool is_json_number(std::string_view text) {
  const auto take_digits = [&text] {
    const size_t count = std::min(text.find_first_not_of("0123456789"), text.size());
    text.remove_prefix(count);
    return count > 0;
  };
  if (text.starts_with('-')) text.remove_prefix(1);
  const bool has_zero_in_front =
      text.size() > 1 && text[0] == '0' && text[1] >= '0' && text[1] <= '9';
  if (has_zero_in_front || !take_digits()) return false;
  if (text.starts_with('.')) {
    text.remove_prefix(1);
    if (!take_digits()) return false;
  }
  if (text.starts_with('e') || text.starts_with('E')) {
    text.remove_prefix(1);
    if (text.starts_with('+') || text.starts_with('-')) text.remove_prefix(1);
    if (!take_digits()) return false;
  }
  return text.empty();
}

/// Takes such numbers out of a text: nlohmann's parser refuses them. In their place stand numbers
/// of the same length, so that bytes are counted as before.
LargeNumbers take_large_numbers(std::string& text) {
  LargeNumbers taken;
  int64_t count = 0;
  bool is_in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (is_in_string && text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      is_in_string = !is_in_string;
    } else if (!is_in_string && (text[i] == '-' || (text[i] >= '0' && text[i] <= '9'))) {
      const size_t end = std::min(text.find_first_not_of("0123456789+-.eE", i), text.size());
      const std::string number = text.substr(i, end - i);
      double value = 0;
      const auto parsed = std::from_chars(number.data(), number.data() + number.size(), value);
      const Decimal decimal = decimal_of(number);
      const bool is_large = parsed.ec == std::errc::result_out_of_range && is_json_number(number) &&
                            decimal.exponent + std::ssize(decimal.digits) > 0;
      const size_t point = i + (text[i] == '-' ? 2 : 1);
      if (is_large && point + 1 < end) {
        taken.emplace(count, number);
        std::fill(text.begin() + static_cast<ptrdiff_t>(point),
                  text.begin() + static_cast<ptrdiff_t>(end), '0');
        text[point] = '.';
      }
      ++count;
      i = end - 1;
    }
  }
  return taken;
}

/// Builds a Json from the lexer's events.
///
/// Json's own insertion searches the whole object for each key, which is quadratic for a vocabulary
/// of 250,000 entries; this appends to the vector below and finds duplicates with a hash set once
/// an object is larger than a few keys.
class Builder {
 public:
  Builder(std::string_view text,
          std::string_view where,
          std::string_view code,
          const JsonLimits& limits,
          LargeNumbers large_numbers)
      : text_(text),
        furthest_(text.data()),
        where_(where),
        code_(code),
        limits_(limits),
        large_numbers_(std::move(large_numbers)) {}

  Json build() {
    const CountingIterator begin(text_.data(), &furthest_);
    const CountingIterator end(text_.data() + text_.size(), &furthest_);
    Json::sax_parse(begin, end, this);
    return std::move(root_);
  }

  bool null() { return put(nullptr); }
  bool boolean(bool value) { return put(value); }
  bool number_integer(int64_t value) {
    ++num_numbers_;
    return put(value);
  }
  bool number_unsigned(uint64_t value) {
    ++num_numbers_;
    return put(value);
  }
  bool number_float(double value, const std::string& text) {
    const auto large = large_numbers_.find(num_numbers_++);
    if (large != large_numbers_.end()) return put(kept_digits(large->second));
    if (limits_.keep_digits && !is_exact(value, text)) return put(kept_digits(text));
    return put(value);
  }
  bool string(std::string& value) { return put(std::move(value)); }
  bool binary(Json::binary_t&) { return false; }
  bool start_object(size_t) { return open(Json::object()); }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    Level& level = levels_.back();
    if (is_duplicate(level, name))
      fail<FormatError>(code_, where_,
                        "expected each key once, got a second \"{}\" that ends at byte {}",
                        readable_reason(name), offset());
    auto& members = *level.value->get_ptr<Json::object_t*>();
    static_cast<Json::object_t::Container&>(members).emplace_back(std::move(name), nullptr);
    return true;
  }

  template <class Exception>
  [[noreturn]] bool parse_error(size_t position, const std::string&, const Exception& error) {
    // `position` counts the bytes read, the offending one included.
    fail<FormatError>(code_, where_, "expected JSON, got an error at byte {}: {}",
                      position == 0 ? 0 : position - 1, readable_reason(error.what()));
  }

 private:
  struct Level {
    Json* value;
    /// Empty while the object is small.
    std::unordered_set<std::string> keys;
  };

  size_t offset() const { return static_cast<size_t>(furthest_ - text_.data()) - 1; }

  static bool is_duplicate(Level& level, const std::string& name) {
    constexpr size_t kSmall = 16;
    const auto& members = *level.value->get_ptr<const Json::object_t*>();
    if (members.size() < kSmall) {
      for (const auto& member : members) {
        if (member.first == name) return true;
      }
      return false;
    }
    if (level.keys.empty()) {
      for (const auto& member : members) level.keys.insert(member.first);
    }
    return !level.keys.insert(name).second;
  }

  Json* place(Json&& value) {
    if (levels_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *levels_.back().value;
    if (parent.is_array()) {
      auto& elements = *parent.get_ptr<Json::array_t*>();
      elements.push_back(std::move(value));
      return &elements.back();
    }
    auto& members = *parent.get_ptr<Json::object_t*>();
    members.back().second = std::move(value);
    return &members.back().second;
  }

  template <class T>
  bool put(T&& value) {
    place(Json(std::forward<T>(value)));
    return true;
  }

  bool open(Json&& container) {
    if (static_cast<int>(levels_.size()) >= limits_.max_depth)
      fail<FormatError>(code_, where_, "expected at most {} levels of nesting, got more at byte {}",
                        limits_.max_depth, offset());
    // The address stays valid: a container's parent gains no further member before it is closed.
    levels_.push_back({place(std::move(container)), {}});
    return true;
  }

  bool close() {
    levels_.pop_back();
    return true;
  }

  std::string_view text_;
  const char* furthest_;
  std::string_view where_, code_;
  const JsonLimits& limits_;
  LargeNumbers large_numbers_;
  int64_t num_numbers_ = 0;
  Json root_;
  std::vector<Level> levels_;
};

/// Writes `value` with a space behind each separator, or without.
void append(const Json& value, bool spaced, std::string& out) {
  const std::string_view comma = spaced ? ", " : ",", colon = spaced ? ": " : ":";
  if (value.is_array()) {
    out += '[';
    for (size_t i = 0; i < value.size(); ++i) {
      if (i > 0) out += comma;
      append(value[i], spaced, out);
    }
    out += ']';
  } else if (value.is_object()) {
    out += '{';
    bool first = true;
    for (const auto& [name, member] : value.items()) {
      if (!first) out += comma;
      first = false;
      out += dump_scalar(Json(name));
      out += colon;
      append(member, spaced, out);
    }
    out += '}';
  } else {
    out += value.is_binary() ? std::string(digits_of(value)) : dump_scalar(value);
  }
}

}  // namespace

Json parse_json(std::string_view text,
                std::string_view where,
                std::string_view code,
                const JsonLimits& limits) {
  if (text.size() > limits.max_bytes)
    fail<FormatError>(code, where, "expected at most {} bytes of JSON, got {}", limits.max_bytes,
                      text.size());
  // nlohmann's lexer takes a NUL for the end of the text.
  if (const size_t nul = text.find('\0'); nul != text.npos)
    fail<FormatError>(code, where, "expected JSON, got a NUL at byte {}", nul);
  if (!limits.keep_digits) return Builder(text, where, code, limits, {}).build();
  std::string without_large(text);
  LargeNumbers large = take_large_numbers(without_large);
  return Builder(without_large, where, code, limits, std::move(large)).build();
}

Json parse_json_file(const std::filesystem::path& path, std::string_view code) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path.string(),
                    code);
}

std::string dump_json(const Json& value, bool spaced) {
  if (!spaced && !has_kept_digits(value)) return dump_scalar(value);
  std::string out;
  append(value, spaced, out);
  return out;
}

std::optional<std::string> number_text(const Json& value) {
  if (value.is_binary()) return std::string(digits_of(value));
  return value.is_number() ? std::optional(dump_scalar(value)) : std::nullopt;
}

void round_kept_digits(Json& value) {
  if (value.is_structured()) {
    for (Json& member : value) round_kept_digits(member);
  } else if (value.is_binary()) {
    value = parse_json(digits_of(value), "a number");
  }
}

std::string dump_json_pretty(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
}

double shortest_double(float value) {
  char digits[32];
  const auto written = std::to_chars(digits, digits + sizeof(digits), value);
  // An infinity and NaN stay as they are.
  double result = value;
  std::from_chars(digits, written.ptr, result);
  return result;
}

}  // namespace lockstep
