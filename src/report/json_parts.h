// Takes a line of JSON apart without reading all of it: a line of completions.jsonl can have a
// megabyte of token ids, of which only their number is wanted.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::report {

/// A member of an object: its name, and the text of its value as it stands.
struct Member {
  std::string name;
  std::string_view value;
};

/// The members of an object's text in order; unset for text that is no object. Values are not
/// checked beyond their brackets and quotes. The views point into `text`.
std::optional<std::vector<Member>> members_of(std::string_view text);
/// The items of a list's text; none for text that is no list.
std::vector<std::string_view> items_of(std::string_view text);
/// The number of items of a list's text; 0 for text that is no list.
size_t count_items(std::string_view text);
/// The text of a JSON string; the text itself where it is something else, "" for null. Throws
/// FormatError "bad-json".
std::string text_of(std::string_view value);

}  // namespace lockstep::report
