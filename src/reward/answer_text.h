// Answers as texts: what is left without the marks that only set them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace lockstep::reward {

/// An answer without what only sets it: space around it, dollar signs, \boxed, \text, bold type and
/// code of Markdown, a full stop, the brackets of a choice "(C)"; single spaces, and none beside
/// signs.
std::string trimmed_answer(std::string_view text);

/// What a text chooses from a list.
struct Choices {
  /// In their order: "C" of "(C)", "C. 12", "\textbf{(C)} 12" and "The answer is C", "ABD" of "A, B
  /// and D" and "ABD". Empty for other answers.
  std::string letters;
  /// Nothing stands behind them.
  bool is_bare = false;

  /// Whether `answer` chooses the same. The order counts where it is not that of the alphabet; one
  /// of the two must be bare.
  bool is_met_by(const Choices& answer) const;
};
Choices choices_in(std::string_view text);

/// A time as hands show it, "10:30", and the half of the day, "am", "pm" or "" if it is not said.
struct ClockTime {
  std::string hands, half;
  /// Whether `answer` is the same time; it may say the half of the day where this does not.
  bool is_met_by(const ClockTime& answer) const {
    return hands == answer.hands && (half == answer.half || half.empty());
  }
};
/// The time in "10:30 a.m.", "10:30 AM", "7 pm" and "10:30"; nothing for what is no time.
std::optional<ClockTime> clock_time(std::string_view text);

/// Whether a text is a date of digits, such as 1776-07-04 or 7/4/1776, and no formula.
bool is_date(std::string_view text);

/// Whether two lines with words and several numbers ("July 4, 1776", "10:30 to 11:15")
/// hold different ones.
bool have_different_numbers(std::string_view gold, std::string_view answer);

/// A plain text with its numbers grouped as in English: thin spaces between digits are spaces, and
/// groups behind an apostrophe or an underscore (37'500, 37_500) stand together.
std::string with_plain_groups(std::string_view text);

/// A text without a rounded value in words behind it: "√2 (approximately 1.414)". Nothing where
/// there is none.
std::optional<std::string_view> without_rounding(std::string_view text);

/// What a choice says: "17" of "(C) 17" and "\textbf{(C)}\ 17". Empty for other texts.
std::string text_of_choice(std::string_view text);

/// Without Markdown's ** around words; powers (2**10) stay.
std::string without_emphasis(std::string_view text);

/// Whether a text without dollar signs may be a formula as a whole: no words but names of
/// functions.
bool may_be_formula(std::string_view text);

/// Whether a text consists of a few words and nothing else.
bool is_phrase(std::string_view text);

/// Whether a text is an answer in a few words, with whatever stands between them, and no LaTeX.
bool is_short_text(std::string_view text);

}  // namespace lockstep::reward
