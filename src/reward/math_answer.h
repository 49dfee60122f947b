// Reading a solution, and judging completions by it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "reward/answer_extraction.h"
#include "reward/answer_text.h"
#include "reward/math_value.h"
#include "reward/work_budget.h"

namespace lockstep::reward {

/// The answer that a solution gives: ms-swift's MathAccuracy, mended.
///
/// What stands in the first <answer>…</answer> counts. A solution without that tag counts from the
/// last #### that begins a line, or as a whole, and its answer may stand anywhere in it. A
/// completion without the tag must give its answer as LaTeX in a box or behind the word "answer".
/// A text without dollar signs that is a formula or a few words as a whole is read as that, too.
///
/// Answers are compared as mathematics; where that does not make them equal, two that are the same
/// text or name the same choice are the same answer.
///
/// Threads: safe once made.
class Solution {
 public:
  explicit Solution(std::string_view text);
  /// A solution that is a number, with all its digits: "2e-05".
  static Solution of_number(std::string_view digits);

  /// Whether it is understood as mathematics and has a value, or is an answer in words; otherwise
  /// nothing but the same text meets it, as a formula that is cut off.
  bool is_readable() const;
  /// Cost: bounded, whatever the completion holds.
  bool is_met_by(std::string_view completion) const;

 private:
  Solution() = default;
  bool is_met_within_bounds(std::string_view completion) const;
  bool is_met_by_value(const ExtractedAnswer& answer, WorkBudget& work) const;
  bool is_met_by_text(std::string_view text) const;
  /// By what a text is as a whole: a single number that somebody finds in "x > 5", "(1, 2)" or
  /// "10:30" is not what it says. Nothing where that does not decide.
  std::optional<bool> is_met_by_whole(std::string_view text, WorkBudget& work) const;

  /// The text as it stands, and what it chooses.
  std::string region_;
  Choices choices_;
  /// What the choice says, "17" of "(C) 17", which meets the solution, too. Null otherwise.
  std::shared_ptr<const Solution> chosen_;
  /// The text itself and the source of the answer found in it, both trimmed.
  std::string text_, source_;
  std::optional<ExtractedAnswer> found_;
  /// The value of the answer found, and the value of the whole text where that is a formula or a
  /// word. Null otherwise.
  MathPtr found_value_, whole_value_;
};

}  // namespace lockstep::reward
