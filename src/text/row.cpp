// SPDX-License-Identifier: Apache-2.0
#include "text/row.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "text/messages.h"

namespace lockstep::text {
namespace {

constexpr std::array<std::string_view, 6> kMediaColumns = {"image",  "images", "video",
                                                           "videos", "audio",  "audios"};

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

Json take(Json& row, const std::string& name, std::string_view where) {
  const auto found = row.find(name);
  if (found == row.end()) return nullptr;
  Json value = std::move(*found);
  row.erase(found);
  // Templates and the keys of messages know doubles.
  if (value.is_structured()) at_row(where, [&] { round_kept_digits(value); });
  return value;
}

[[noreturn]] void refuse(std::string_view expected, const Json& got, std::string_view where) {
  fail<FormatError>("bad-row", where, "expected {}, got {}", expected, got.type_name());
}

/// What a column holds that may be written as a string of JSON.
Json structure_of(Json value, const char* column, const std::string& where) {
  try {
    return parsed_if_text(std::move(value), where);
  } catch (const FormatError&) {
    fail<FormatError>("bad-row", where, "expected JSON in {}, got text that is none", column);
  }
}

Json tools_of(Json value, const std::string& where) {
  if (value == "") return nullptr;
  value = structure_of(std::move(value), "tools", where);
  if (value.is_null()) return value;
  if (!value.is_array()) refuse("a list in tools", value, where);
  for (Json& tool : value) {
    tool = structure_of(std::move(tool), "tools", where);
    if (!tool.is_object()) refuse("objects in tools", tool, where);
  }
  return value;
}

const Json& list_of(const Json& row,
                    std::string_view key,
                    std::string_view what,
                    std::string_view where) {
  const auto found = row.find(std::string(key));
  if (found == row.end())
    fail<FormatError>("bad-row", where, "expected {} in {}, got none", what, key);
  if (!found->is_array())
    fail<FormatError>("bad-row", where, "expected {} in {}, got {}", what, key, found->type_name());
  return *found;
}

}  // namespace

Row take_conversation(Json&& row,
                      const std::string& where,
                      MessageForm form,
                      const std::string& messages) {
  Row result;
  result.where = where;
  result.tools = tools_of(take(row, "tools", where), where);
  result.chat_template_kwargs =
      structure_of(take(row, "chat_template_kwargs", where), "chat_template_kwargs", where);
  if (!result.chat_template_kwargs.is_null() && !result.chat_template_kwargs.is_object())
    refuse("an object in chat_template_kwargs", result.chat_template_kwargs, where);
  const bool is_canonical = form == MessageForm::kCanonical;
  if (is_canonical && result.tools.empty()) result.tools = nullptr;
  if (!messages.empty()) {
    result.messages = take(row, messages, where);
    if (is_canonical)
      result.messages = canonical_messages(std::move(result.messages), where);
    else if (!result.messages.is_array() || result.messages.empty())
      refuse("a list of at least one message in messages", result.messages, where);
  }
  result.columns = std::move(row);
  return result;
}

void check_text_only(const Json& row, std::string_view where) {
  for (const auto& [name, value] : row.items()) {
    if (std::find(kMediaColumns.begin(), kMediaColumns.end(), lower(name)) == kMediaColumns.end())
      continue;
    const bool is_empty =
        value.is_null() || value == "" || value == "[]" || (value.is_structured() && value.empty());
    if (!is_empty)
      fail<FormatError>("bad-row", where,
                        "expected text only, got {} (images, video and audio are not supported: a "
                        "vision tower is carried through, not run)",
                        name);
  }
}

std::vector<int64_t> ids_of(const Json& row,
                            std::string_view key,
                            int64_t vocab_size,
                            std::string_view where) {
  const Json& list = list_of(row, key, "a list of ids", where);
  std::vector<int64_t> ids;
  ids.reserve(list.size());
  for (const Json& element : list) {
    if (!element.is_number_integer())
      fail<FormatError>("bad-row", where, "expected whole numbers in {}, got {}", key,
                        dump_json(element));
    // The reader makes a number beyond int64 an unsigned one.
    const bool is_huge =
        element.is_number_unsigned() && element.get<uint64_t>() > uint64_t{INT64_MAX};
    const int64_t id = is_huge ? INT64_MAX : element.get<int64_t>();
    if (id < 0 || id >= vocab_size)
      fail<FormatError>("bad-row", where, "expected ids in [0, {}) in {}, got {}", vocab_size, key,
                        dump_json(element));
    ids.push_back(id);
  }
  return ids;
}

void check_ids(std::span<const int64_t> ids, int64_t vocab_size, std::string_view where) {
  for (const int64_t id : ids)
    if (id < 0 || id >= vocab_size)
      fail<FormatError>("bad-row", where, "expected ids in [0, {}), got {} from the tokenizer",
                        vocab_size, id);
}

std::vector<uint8_t> mask_of(const Json& row,
                             std::string_view key,
                             size_t count,
                             std::string_view where) {
  const Json& list = list_of(row, key, "a list of 0 and 1", where);
  if (list.size() != count)
    fail<FormatError>("bad-row", where, "expected {} entries in {}, one an input id, got {}", count,
                      key, list.size());
  std::vector<uint8_t> mask;
  for (const Json& entry : list) {
    if (!entry.is_number_integer() || (entry != 0 && entry != 1))
      fail<FormatError>("bad-row", where, "expected 0 or 1 in {}, got {}", key, dump_json(entry));
    mask.push_back(entry == 1);
  }
  return mask;
}

std::vector<double> numbers_of(const Json& row,
                               std::string_view key,
                               size_t count,
                               std::string_view what_for,
                               std::string_view where) {
  const Json& list = list_of(row, key, fmt::format("{} numbers", count), where);
  if (list.size() != count)
    fail<FormatError>("bad-row", where, "expected {} numbers in {}, one for each {}, got {}", count,
                      key, what_for, list.size());
  std::vector<double> values;
  for (const Json& value : list) {
    if (!value.is_number())
      fail<FormatError>("bad-row", where, "expected numbers in {}, got {}", key, dump_json(value));
    values.push_back(value.get<double>());
  }
  return values;
}

}  // namespace lockstep::text
