// Reading a solution, and judging completions by it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "reward/answer_extraction.h"
#include "reward/math_value.h"
#include "reward/work_budget.h"

namespace lockstep::reward {

/// The answer that a solution gives: ms-swift's MathAccuracy, mended.
///
/// Of a text counts what stands in the first <answer>…</answer>, else everything. The solution's
/// answer may stand anywhere; so may the completion's behind a tag, and otherwise only LaTeX in a
/// box or behind the word "answer". Answers are compared as mathematics; where that does not make
/// them equal, two that are the same text are the same answer.
///
/// Threads: safe once made.
class Solution {
 public:
  explicit Solution(std::string_view text);
  /// A solution that is a number, with all its digits: "2e-05".
  static Solution of_number(std::string_view digits);

  /// Whether it is understood as mathematics or as a word, and has a value; otherwise nothing but
  /// the same text meets it.
  bool is_readable() const;
  /// Cost: bounded, whatever the completion holds.
  bool is_met_by(std::string_view completion) const;

 private:
  Solution() = default;
  bool is_met_within_bounds(std::string_view completion) const;
  bool is_met_by_value(const ExtractedAnswer& answer, WorkBudget& work) const;
  bool is_met_by_text(std::string_view text) const;

  /// The text itself and the source of the answer found in it, both trimmed.
  std::string text_, source_;
  std::optional<ExtractedAnswer> found_;
  /// Of the answer found, and of the whole text where that is a formula or a word. Null otherwise.
  MathPtr found_value_, whole_value_;
};

}  // namespace lockstep::reward
