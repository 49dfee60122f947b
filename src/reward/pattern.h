// A regular expression with groups, on PCRE2.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "reward/work_budget.h"

namespace lockstep::reward {

/// One match; views into the text searched.
struct PatternMatch {
  /// Bytes.
  size_t begin = 0, end = 0;
  /// From 0, the whole match; empty where a group took no part.
  std::vector<std::string_view> groups;
};

struct PatternOptions {
  /// "." matches the line end, too.
  bool dot_all = false;
  /// find_all can book its steps, at the price of speed.
  bool counts_steps = false;
};

/// Python's re for the patterns used here, with Unicode classes. Texts must be valid UTF-8.
/// Threads: safe.
class Pattern {
 public:
  /// The expression is ours: a wrong one is an InternalError.
  explicit Pattern(std::string_view expression, const PatternOptions& options = {});
  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) = delete;

  /// re.finditer: matches from left to right that do not overlap.
  std::vector<PatternMatch> find_all(std::string_view text) const;
  /// The same with a bound on what it costs, for texts of any length and content; the pattern
  /// counts steps. Throws TooMuchWork.
  std::vector<PatternMatch> find_all(std::string_view text, WorkBudget& work) const;
  /// re.sub with $1, ${name} and the like (PCRE2's extended syntax) in `replacement`.
  std::string replace_all(std::string_view text, std::string_view replacement) const;
  /// Index of a named group; 0 if there is none.
  size_t group_index(const std::string& name) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::reward
