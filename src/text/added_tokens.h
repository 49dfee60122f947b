// Added tokens: texts that are a single token wherever they occur.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::text {

struct AddedToken {
  int64_t id = 0;
  std::string content;
  /// Whether decode(…, skip_special) leaves it out.
  bool is_special = false;
  /// Whether it is looked for in the normalised text rather than in the raw one.
  bool is_normalized = false;
  /// Whether white space before (behind) it becomes part of it.
  bool strips_left = false;
  bool strips_right = false;
};

/// Finds added tokens in a text: the leftmost match, and of those the longest. Threads: any.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);
  bool empty() const { return tokens_.empty(); }

  struct Match {
    /// Null if there is none.
    const AddedToken* token;
    /// Its bytes, including white space that belongs to it.
    size_t begin, end;
  };
  /// The first match at or behind `from`.
  Match find(std::string_view text, size_t from) const;

 private:
  const AddedToken* longest_at(std::string_view text, size_t begin) const;
  // They are sorted by content.
  std::vector<AddedToken> tokens_;
  // The bytes with which contents begin.
  std::string first_bytes_;
};

}  // namespace lockstep::text
