// SPDX-License-Identifier: Apache-2.0
#include "report/json_parts.h"

#include "base/json.h"

namespace lockstep::report {
namespace {

size_t skip_space(std::string_view text, size_t at) {
  while (at < text.size() &&
         (text[at] == ' ' || text[at] == '\t' || text[at] == '\n' || text[at] == '\r'))
    ++at;
  return at;
}

/// The position behind the string that begins at `at`; npos if it does not end.
size_t skip_string(std::string_view text, size_t at) {
  for (++at; at < text.size(); ++at) {
    if (text[at] == '\\')
      ++at;
    else if (text[at] == '"')
      return at + 1;
  }
  return std::string_view::npos;
}

/// The position behind the value that begins at `at`; npos if it does not end.
size_t skip_value(std::string_view text, size_t at) {
  if (at >= text.size()) return std::string_view::npos;
  if (text[at] == '"') return skip_string(text, at);
  if (text[at] != '{' && text[at] != '[') {
    const size_t begin = at;
    while (at < text.size() && text[at] != ',' && text[at] != ']' && text[at] != '}' &&
           text[at] != ' ' && text[at] != '\n' && text[at] != '\r' && text[at] != '\t')
      ++at;
    return at > begin ? at : std::string_view::npos;
  }
  int depth = 0;
  while (at < text.size()) {
    const char c = text[at];
    if (c == '"') {
      at = skip_string(text, at);
      if (at == std::string_view::npos) return at;
      continue;
    }
    depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    ++at;
    if (depth == 0) return at;
  }
  return std::string_view::npos;
}

/// Calls `on_item` with each item of a list's text.
template <class OnItem>
void for_each_item(std::string_view text, const OnItem& on_item) {
  size_t at = skip_space(text, 0);
  if (at >= text.size() || text[at] != '[') return;
  at = skip_space(text, at + 1);
  while (at < text.size() && text[at] != ']') {
    const size_t end = skip_value(text, at);
    if (end == std::string_view::npos) return;
    on_item(text.substr(at, end - at));
    at = skip_space(text, end);
    if (at < text.size() && text[at] == ',') at = skip_space(text, at + 1);
  }
}

}  // namespace

std::optional<std::vector<Member>> members_of(std::string_view text) {
  size_t at = skip_space(text, 0);
  if (at >= text.size() || text[at] != '{') return {};
  std::vector<Member> members;
  at = skip_space(text, at + 1);
  while (at < text.size() && text[at] == '"') {
    const size_t name_end = skip_string(text, at);
    if (name_end == std::string_view::npos) return {};
    const std::string_view name = text.substr(at, name_end - at);
    at = skip_space(text, name_end);
    if (at >= text.size() || text[at] != ':') return {};
    at = skip_space(text, at + 1);
    const size_t end = skip_value(text, at);
    if (end == std::string_view::npos) return {};
    members.push_back({text_of(name), text.substr(at, end - at)});
    at = skip_space(text, end);
    if (at < text.size() && text[at] == ',') at = skip_space(text, at + 1);
  }
  if (at >= text.size() || text[at] != '}') return {};
  return members;
}

std::vector<std::string_view> items_of(std::string_view text) {
  std::vector<std::string_view> items;
  for_each_item(text, [&](std::string_view item) { items.push_back(item); });
  return items;
}

size_t count_items(std::string_view text) {
  size_t count = 0;
  for_each_item(text, [&](std::string_view) { ++count; });
  return count;
}

std::string text_of(std::string_view value) {
  if (value.empty() || value == "null") return "";
  if (value.front() != '"') return std::string(value);
  if (value.find('\\') == std::string_view::npos && value.size() >= 2)
    return std::string(value.substr(1, value.size() - 2));
  return parse_json(value, "text").get<std::string>();
}

}  // namespace lockstep::report
