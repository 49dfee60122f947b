// Added tokens: texts that are one token wherever they stand.
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
  /// Left out by decode(…, skip_special).
  bool is_special = false;
  /// Matched in the normalised text instead of the raw one.
  bool is_normalized = false;
  /// Takes the white space before it along.
  bool strips_left = false;
  bool strips_right = false;
};

/// Finds added tokens in a text: leftmost, then longest. Threads: safe.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);
  bool empty() const { return tokens_.empty(); }

  struct Match {
    /// Null: there is none.
    const AddedToken* token;
    /// Bytes, stripped white space included.
    size_t begin, end;
  };
  /// The first match at or behind `from`.
  Match find(std::string_view text, size_t from) const;

 private:
  const AddedToken* longest_at(std::string_view text, size_t begin) const;
  // Sorted by content.
  std::vector<AddedToken> tokens_;
  // The bytes that contents start with.
  std::string first_bytes_;
};

}  // namespace lockstep::text
