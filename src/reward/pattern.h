// A regular expression with groups, on PCRE2.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::reward {

/// One match; views into the text searched.
struct PatternMatch {
  /// Bytes.
  size_t begin = 0, end = 0;
  std::vector<std::string_view>
      /// From 0, the whole match; empty where a group took no part.
      groups;
};

/// Python's re for the patterns used here: Unicode classes, "." without the line end unless
/// `dot_all`. Threads: safe.
class Pattern {
 public:
  /// The expression is ours: a wrong one is an InternalError.
  explicit Pattern(std::string_view expression, bool dot_all = false);
  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) = delete;

  /// re.finditer: matches from left to right that do not overlap. A text that takes too many steps
  /// yields the matches found until then, as math_verify's timeout would.
  std::vector<PatternMatch> find_all(std::string_view text) const;
  /// re.sub with $1, ${name} and the like (PCRE2's extended syntax) in `replacement`.
  std::string replace_all(std::string_view text, std::string_view replacement) const;
  /// Index of a named group; 0 if there is none.
  size_t group_index(const std::string& name) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::reward
