// Finding the answer in a text: which piece of it, and how it is written.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "reward/work_budget.h"

namespace lockstep::reward {

/// Where an answer may stand.
enum class AnswerPlaces : uint8_t {
  /// LaTeX or a plain number or expression, preferably behind "answer" or in a box.
  kAnywhere,
  /// LaTeX in a \boxed{…} or behind "answer" only, and well-formed.
  kAnchoredLatex
};

/// One expression of an answer.
struct AnswerPiece {
  /// Normalised LaTeX, or a plain expression.
  std::string text;
  /// A percent sign or word follows.
  bool is_percent = false;
};

/// The first place of a text by priority, from its end.
struct ExtractedAnswer {
  bool is_latex = false;
  /// Several where LaTeX formulas are joined by "and", "or" or a comma.
  std::vector<AnswerPiece> pieces;
  /// How math_verify writes it: equal texts are equal answers, parsed or not.
  std::string text;
  /// As it stands in the source; empty for a plain answer.
  std::string source;
  /// Whether it is a plain answer with nothing else around it in the text.
  bool is_all = false;
};

/// Nothing where no pattern matches. Throws TooMuchWork.
///
/// Source: math_verify 0.9, parser.py (parse with extraction_mode="first_match") with the two
/// configurations of ms-swift's MathAccuracy.
std::optional<ExtractedAnswer> extract_answer(std::string_view text,
                                              AnswerPlaces places,
                                              WorkBudget& work);

}  // namespace lockstep::reward
