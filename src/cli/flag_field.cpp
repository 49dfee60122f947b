// Reading and writing each type that an option can have.
// SPDX-License-Identifier: Apache-2.0
#include "cli/flag_field.h"

#include <charconv>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/check.h"

namespace lockstep::cli {
namespace {

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return result;
}

/// Python's and YAML's spellings of "unset".
bool is_none(const std::vector<std::string>& values) {
  if (values.size() != 1) return false;
  const std::string word = lower(values[0]);
  return word == "none" || word == "null";
}

std::string range_text(const Range& range) {
  const bool has_low = std::isfinite(range.low), has_high = std::isfinite(range.high);
  if (has_low && has_high)
    return fmt::format("in {}{}, {}{}", range.low_open ? '(' : '[', range.low, range.high,
                       range.high_open ? ')' : ']');
  if (has_low) return fmt::format("{} {}", range.low_open ? ">" : ">=", range.low);
  if (has_high) return fmt::format("{} {}", range.high_open ? "<" : "<=", range.high);
  return "";
}

template <class Number>
bool parse_number(const std::string& text, Number& result) {
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, result);
  return error == std::errc() && rest == end;
}

// parse_one, the noun and the placeholder of each scalar type.

bool parse_one(const std::string& text, const Range&, bool& result) {
  const std::string word = lower(text);
  if (word != "true" && word != "false") return false;
  result = word == "true";
  return true;
}
bool parse_one(const std::string& text, const Range& range, int64_t& result) {
  return parse_number(text, result) && range.contains(static_cast<double>(result));
}
bool parse_one(const std::string& text, const Range& range, double& result) {
  return parse_number(text, result) && std::isfinite(result) && range.contains(result);
}
bool parse_one(const std::string& text, const Range&, std::string& result) {
  result = text;
  return true;
}
bool parse_one(const std::string& text, const Range&, Json& result) {
  Json value = parse_json(text, "", "bad-flag");
  if (!value.is_object()) return false;
  result = std::move(value);
  return true;
}

struct TypeWords {
  std::string_view one, many, placeholder;
};
TypeWords words(const bool&) { return {"true or false", "", "true|false"}; }
TypeWords words(const int64_t&) { return {"a whole number", "whole numbers", "INTEGER"}; }
TypeWords words(const double&) { return {"a number", "numbers", "NUMBER"}; }
TypeWords words(const std::string&) { return {"one value", "values", "TEXT"}; }
TypeWords words(const Json&) { return {"a dictionary as a JSON object", "", "JSON"}; }

template <class T>
struct ListElement {
  using type = T;
  static constexpr bool is_list = false;
};
template <class T>
struct ListElement<std::vector<T>> {
  using type = T;
  static constexpr bool is_list = true;
};
template <class T>
struct Unwrapped {
  using type = T;
  static constexpr bool is_optional = false;
};
template <class T>
struct Unwrapped<std::optional<T>> {
  using type = T;
  static constexpr bool is_optional = true;
};

template <class T>
bool parse_values(const std::vector<std::string>& values, const Range& range, T& result) {
  if constexpr (ListElement<T>::is_list) {
    result.clear();
    for (const std::string& value : values) {
      typename ListElement<T>::type element{};
      if (!parse_one(value, range, element)) return false;
      result.push_back(std::move(element));
    }
    return true;
  } else {
    if constexpr (std::is_same_v<T, bool>) {
      if (values.empty()) return parse_one("true", range, result);
    }
    return values.size() == 1 && parse_one(values[0], range, result);
  }
}

template <class T>
Json json_of(const T& value) {
  if constexpr (Unwrapped<T>::is_optional)
    return value ? Json(*value) : Json(nullptr);
  else
    return Json(value);
}

/// A field of any type but an enum: bool, number, text, dictionary, lists and optionals of them.
template <class T>
class ValueField : public FlagField {
 public:
  using Value = typename Unwrapped<T>::type;
  using Element = typename ListElement<Value>::type;

  ValueField(FieldDeclaration declaration, T& member, const Range& range)
      : FlagField(std::move(declaration)), member_(&member), default_(member), range_(range) {}

  Json get() const override { return json_of(*member_); }
  Json default_value() const override { return json_of(default_); }
  std::string limits() const override { return range_text(range_); }
  std::string expectation() const override {
    const TypeWords type = words(Element());
    const std::string noun(ListElement<Value>::is_list ? type.many : type.one);
    return limits().empty() ? noun : noun + " " + limits();
  }
  std::string placeholder() const override {
    return std::string(words(Element()).placeholder) + (ListElement<Value>::is_list ? " …" : "");
  }

 protected:
  bool set(const std::vector<std::string>& values) override {
    Value value{};
    if constexpr (Unwrapped<T>::is_optional && !std::is_same_v<Value, std::string>) {
      if (is_none(values)) {
        member_->reset();
        return true;
      }
    }
    if (!parse_values(values, range_, value)) return false;
    *member_ = std::move(value);
    return true;
  }
  void reset() override { *member_ = default_; }

 private:
  T* member_;
  T default_;
  Range range_;
};

class EnumField : public FlagField {
 public:
  EnumField(FieldDeclaration declaration, EnumAccess access)
      : FlagField(std::move(declaration)), access_(std::move(access)), default_(access_.get()) {}

  Json get() const override { return name_of(access_.get()); }
  Json default_value() const override { return name_of(default_); }
  std::string limits() const override { return fmt::format("{}", fmt::join(access_.names, "|")); }
  std::string expectation() const override {
    return fmt::format("one of {}", fmt::join(access_.names, ", "));
  }
  std::string placeholder() const override { return limits(); }

 protected:
  bool set(const std::vector<std::string>& values) override {
    if (values.size() != 1) return false;
    for (size_t i = 0; i < access_.names.size(); ++i)
      if (access_.names[i] == values[0]) {
        access_.set(i);
        return true;
      }
    if (!access_.is_optional || !is_none(values)) return false;
    access_.set(std::nullopt);
    return true;
  }
  void reset() override { access_.set(default_); }

 private:
  Json name_of(std::optional<size_t> index) const {
    return index ? Json(access_.names[*index]) : Json(nullptr);
  }
  EnumAccess access_;
  std::optional<size_t> default_;
};

}  // namespace

void FlagField::assign(const Assignment& assignment) {
  where_ = assignment.where;
  if (assignment.is_null) return reset();
  std::string reason;
  try {
    if (set(assignment.values)) return;
  } catch (const FormatError& error) {
    // JSON of a dictionary: the reader's own words say more than the type.
    reason = fmt::format(" ({})", error.what());
  }
  std::string got = "nothing";
  if (assignment.values.size() == 1) got = fmt::format("'{}'", assignment.values[0]);
  if (assignment.values.size() > 1) got = fmt::format("'{}'", fmt::join(assignment.values, " "));
  fail<ConfigError>("bad-flag", assignment.where, "expected {}, got {}{}", expectation(), got,
                    reason);
}

template <class T>
void FieldVisitor::add(FieldDeclaration declaration, T& member, Range range) {
  fields_->push_back(std::make_unique<ValueField<T>>(std::move(declaration), member, range));
}
void FieldVisitor::add(FieldDeclaration declaration, EnumAccess access) {
  fields_->push_back(std::make_unique<EnumField>(std::move(declaration), std::move(access)));
}

template void FieldVisitor::add(FieldDeclaration, bool&, Range);
template void FieldVisitor::add(FieldDeclaration, int64_t&, Range);
template void FieldVisitor::add(FieldDeclaration, double&, Range);
template void FieldVisitor::add(FieldDeclaration, std::string&, Range);
template void FieldVisitor::add(FieldDeclaration, Json&, Range);
template void FieldVisitor::add(FieldDeclaration, std::vector<std::string>&, Range);
template void FieldVisitor::add(FieldDeclaration, std::vector<int64_t>&, Range);
template void FieldVisitor::add(FieldDeclaration, std::vector<double>&, Range);
template void FieldVisitor::add(FieldDeclaration, std::optional<bool>&, Range);
template void FieldVisitor::add(FieldDeclaration, std::optional<int64_t>&, Range);
template void FieldVisitor::add(FieldDeclaration, std::optional<double>&, Range);
template void FieldVisitor::add(FieldDeclaration, std::optional<std::string>&, Range);
template void FieldVisitor::add(FieldDeclaration, std::optional<std::vector<std::string>>&, Range);

}  // namespace lockstep::cli
