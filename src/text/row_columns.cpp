// SPDX-License-Identifier: Apache-2.0
#include "text/row_columns.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <utility>

#include "base/check.h"

namespace lockstep::text {
namespace {

/// Names under which data sets have what a row's `solution` is, the likeliest first.
constexpr std::array<std::string_view, 17> kSolutionNames = {
    "solution",   "ground_truth", "answer", "final_answer", "correct_answer", "expected_answer",
    "reference",  "gold",         "label",  "target",       "answers",        "targets",
    "answer_key", "response",     "output", "completion",   "chosen"};
constexpr size_t kMostNames = 40;

/// What stands behind the last dot, in small letters.
std::string last_part(std::string_view name) {
  const size_t dot = name.rfind('.');
  std::string part(dot == name.npos ? name : name.substr(dot + 1));
  std::transform(part.begin(), part.end(), part.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return part;
}

/// What a value holds under `key`: a member of an object, or an element of a list.
const Json* member(const Json& value, std::string_view key) {
  if (value.is_object()) {
    const auto found = value.find(std::string(key));
    return found == value.end() ? nullptr : &*found;
  }
  size_t index = 0;
  const auto read = std::from_chars(key.data(), key.data() + key.size(), index);
  if (!value.is_array() || read.ec != std::errc() || read.ptr != key.data() + key.size())
    return nullptr;
  return index < value.size() ? &value[index] : nullptr;
}

/// The object or list that a text holds as JSON, or null.
Json parsed_structure(const Json& value) {
  const auto& text = value.get_ref<const std::string&>();
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == text.npos || (text[first] != '{' && text[first] != '[')) return nullptr;
  try {
    return parse_json(text, "column", "bad-row", {.keep_digits = true});
  } catch (const FormatError&) {
    // It is some other text.
    return nullptr;
  }
}

void add_names(std::vector<std::string>& names, const std::string& prefix, const Json& object) {
  for (const auto& [name, value] : object.items()) {
    if (value.is_object() && !value.empty())
      add_names(names, prefix + name + ".", value);
    else
      names.push_back(prefix + name);
  }
}

std::string_view likeliest(const std::vector<std::string>& names, std::string_view wanted) {
  if (wanted != "solution" && wanted != "response" && wanted != "completion") return {};
  for (const std::string_view known : kSolutionNames)
    for (const std::string& name : names)
      if (last_part(name) == known && name != wanted) return name;
  return {};
}

}  // namespace

const Json* find_column(const Json& row, std::string_view name, Json& parsed) {
  // A name may have dots itself.
  if (const Json* value = member(row, name)) return value;
  const Json* value = &row;
  while (true) {
    if (value->is_string()) {
      parsed = parsed_structure(*value);
      value = &parsed;
    }
    const size_t dot = name.find('.');
    value = member(*value, name.substr(0, dot));
    if (value == nullptr || dot == name.npos) return value;
    name.remove_prefix(dot + 1);
  }
}

Json renamed_columns(Json row, const Json& columns, std::string_view where) {
  Json renamed = Json::object();
  const auto add = [&](const std::string& name, Json value) {
    if (renamed.contains(name))
      fail<ConfigError>("bad-config", "--columns",
                        "expected new names that no other column has, got \"{}\" twice at {}", name,
                        where);
    renamed[name] = std::move(value);
  };
  std::vector<std::pair<std::string, Json>> nested;
  for (const auto& [name, new_name] : columns.items()) {
    Json parsed;
    if (row.contains(name)) continue;
    if (const Json* value = find_column(row, name, parsed))
      nested.emplace_back(new_name.get<std::string>(), *value);
  }
  for (auto& [name, value] : row.get_ref<Json::object_t&>()) {
    const auto found = columns.find(name);
    add(found == columns.end() ? name : found->get<std::string>(), std::move(value));
  }
  for (auto& [name, value] : nested) add(name, std::move(value));
  return renamed;
}

std::vector<std::string> column_names(const Json& row) {
  std::vector<std::string> names;
  if (row.is_object()) add_names(names, "", row);
  return names;
}

std::string names_of(const std::vector<std::string>& names) {
  if (names.empty()) return "none";
  std::string list;
  for (size_t i = 0; i < std::min(names.size(), kMostNames); ++i)
    list += (i > 0 ? ", " : "") + names[i];
  return names.size() > kMostNames ? list + ", …" : list;
}

std::string columns_and_hint(const std::vector<std::string>& names, std::string_view wanted) {
  if (names.empty()) return "none";
  const std::string_view column = likeliest(names, wanted);
  return fmt::format("{} (hint: --columns '{{\"{}\": \"{}\"}}' gives {} that name)",
                     names_of(names), column.empty() ? "NAME" : column, wanted,
                     column.empty() ? "another column" : column);
}

}  // namespace lockstep::text
