// Tags, extraction, parsing, comparison.
// SPDX-License-Identifier: Apache-2.0
#include "reward/math_answer.h"

#include <algorithm>

#include "reward/answer_comparer.h"  // is_collection, is_equation
#include "reward/latex_normalize.h"
#include "reward/math_compare.h"
#include "reward/math_parser.h"
#include "reward/pattern.h"
#include "reward/unicode_math.h"
#include "reward/work_budget.h"
#include "text/jinja/string.h"
#include "text/unicode.h"

namespace lockstep::reward {
namespace {

/// Steps to compare two answers: some tenths of a second at most.
constexpr int64_t kComparing = 30'000'000;

/// Steps to find an answer in a text: twice what a text full of formulas takes, and at most one
/// second.
WorkBudget reading_budget(std::string_view text) {
  constexpr int64_t kLeast = 10'000'000, kByte = 250, kMost = 100'000'000;
  return WorkBudget(std::min(kLeast + kByte * static_cast<int64_t>(text.size()), kMost));
}

/// The stripped inside of the first <answer>…</answer>.
std::optional<std::string_view> tagged_answer(std::string_view text) {
  constexpr std::string_view kOpen = "<answer>", kClose = "</answer>";
  const size_t open = text.find(kOpen);
  if (open == text.npos) return std::nullopt;
  const size_t begin = open + kOpen.size(), end = text.find(kClose, begin);
  if (end == text.npos) return std::nullopt;
  return text::jinja::strip(text.substr(begin, end - begin));
}

/// What stands behind the last #### that begins a line, as in GSM8K; else the whole text.
std::string_view marked_answer(std::string_view text) {
  constexpr std::string_view kMark = "####";
  const size_t mark = text.rfind(kMark);
  const bool begins_line = mark != text.npos && (mark == 0 || text[mark - 1] == '\n');
  return begins_line ? text.substr(mark + kMark.size()) : text;
}

/// The text with U+FFFD for bytes that are no UTF-8.
std::string valid_text(std::string_view text) {
  std::string result;
  text::append_lossy(text, /*more_follows=*/false, result);
  return result;
}

MathPtr parse_piece(const AnswerPiece& piece, bool is_latex) {
  MathPtr value = is_latex ? parse_latex(piece.text) : parse_plain(piece.text);
  if (!value && is_latex) value = parse_latex(last_of_chain(piece.text));
  return value && piece.is_percent ? make_math(MathKind::kPercent, {value}) : value;
}

/// The value of an answer, or null where a piece is not understood.
MathPtr parse_answer(const ExtractedAnswer& answer) {
  std::vector<MathPtr> values;
  for (const AnswerPiece& piece : answer.pieces) {
    values.push_back(parse_piece(piece, answer.is_latex));
    if (!values.back() && answer.pieces.size() > 1) return nullptr;
  }
  if (values.size() <= 1) return values.empty() ? nullptr : values[0];
  std::vector<MathPtr> elements;
  for (const MathPtr& value : values) {
    if (value->kind == MathKind::kSet) {
      elements.insert(elements.end(), value->children.begin(), value->children.end());
    } else {
      elements.push_back(value);
    }
  }
  return make_math(MathKind::kSet, std::move(elements));
}

bool has_latex_marks(std::string_view text) {
  return text.find('$') != text.npos || text.find("\\(") != text.npos ||
         text.find("\\[") != text.npos || text.find("box{") != text.npos;
}

/// "\$12.50" without the sign of currency; other texts as they are.
std::string without_currency(std::string text) {
  static const Pattern amount(R"(^\s*\\\$\s*(\d[\d,]*(?:\.\d+)?)\s*\.?$)");
  return amount.replace_all(text, "$1");
}

/// An answer that stands alone, without what only sets it.
std::string cleaned(std::string_view region) {
  return with_plain_groups(without_currency(without_emphasis(region)));
}

std::string_view without_full_stop(std::string_view text) {
  if (text.size() > 1 && text.ends_with('.') && !text.ends_with("..")) text.remove_suffix(1);
  return text;
}

/// "2e-5" in a text without dollar signs is a number as programs write it.
bool is_number_literal(std::string_view text) {
  return text.find_first_not_of("0123456789.eE+-") == text.npos &&
         text.find_first_of("eE") != text.npos && parse_number(text);
}

/// A text without dollar signs as a formula or as words; null if it is neither.
MathPtr parse_whole(std::string_view text) {
  if (has_latex_marks(text) || text.size() > kLongestFormula) return nullptr;
  text = without_full_stop(text);
  if (is_date(text)) return make_math(MathKind::kSymbol, {}, std::string(text));
  if (is_number_literal(text)) return parse_number(text);
  const std::string latex = unicode_to_latex(text);
  // π and ℝ are no words.
  if (is_phrase(text) && latex == text) return parse_word(text);
  const std::string formula = normalize_latex(latex, {});
  return may_be_formula(formula) ? parse_latex(formula) : nullptr;
}

bool has_unicode_math(std::string_view text) {
  const auto is_ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
  return !std::all_of(text.begin(), text.end(), is_ascii) && unicode_to_latex(text) != text;
}

bool is_inequality(const Math& value) {
  return value.kind == MathKind::kRelation && !is_equation(value);
}

/// "2/3 = 0.667": numbers and operators around a sign of equality.
MathPtr parse_plain_chain(std::string_view text) {
  constexpr std::string_view kPlain = "0123456789., +-*/^()=~%";
  std::string ascii = text::jinja::replace(text, "≈", "~=", -1);
  for (const std::string_view sign : {"×", "÷", "·", "√", "−"})
    ascii = text::jinja::replace(ascii, sign, " ", -1);
  const bool is_chain = text.size() <= kLongestFormula && ascii.find('=') != ascii.npos &&
                        ascii.find_first_not_of(kPlain) == ascii.npos;
  return is_chain ? parse_latex(text::jinja::replace(text, "~=", "\\approx ", -1)) : nullptr;
}

}  // namespace

Solution::Solution(std::string_view text) {
  const std::string valid = valid_text(text);
  const std::string region = region_ =
      cleaned(text::jinja::strip(tagged_answer(valid).value_or(marked_answer(valid))));
  text_ = trimmed_answer(region);
  choices_ = choices_in(region);
  if (const std::string chosen = text_of_choice(region);
      !choices_.letters.empty() && !chosen.empty())
    chosen_ = std::make_shared<const Solution>(chosen);
  whole_value_ = parse_whole(region);
  const bool has_dots = region.ends_with("...");
  if (is_date(region) || is_number_literal(region) || (has_dots && whole_value_)) {
    found_value_ = whole_value_;
    return;
  }
  WorkBudget work = reading_budget(region);
  try {
    found_ = extract_answer(region, AnswerPlaces::kAnywhere, work);
  } catch (const TooMuchWork&) {
    return;
  }
  if (!found_) return;
  found_value_ = parse_answer(*found_);
  if (found_->is_latex) source_ = trimmed_answer(found_->source);
}

Solution Solution::of_number(std::string_view digits) {
  Solution solution;
  solution.text_ = std::string(digits);
  solution.found_value_ = solution.whole_value_ = parse_number(digits);
  return solution;
}

bool Solution::is_readable() const {
  const MathPtr& value = whole_value_ ? whole_value_ : found_value_;
  if (!choices_.letters.empty()) return true;
  if (!value) return is_short_text(region_);
  WorkBudget work(kComparing);
  try {
    return has_value(value, work);
  } catch (const TooMuchWork&) {
    return true;
  }
}

bool Solution::is_met_by_text(std::string_view text) const {
  const std::string answer = trimmed_answer(text);
  if (!answer.empty() && (answer == text_ || answer == source_)) return true;
  const auto time = clock_time(text_), given_time = clock_time(answer);
  if (time && given_time && time->is_met_by(*given_time)) return true;
  return choices_.is_met_by(choices_in(text));
}

bool Solution::is_met_by_value(const ExtractedAnswer& answer, WorkBudget& work) const {
  // A number in the midst of other text is read as math_verify reads it; so is the solution then.
  const bool is_number = found_ && found_->is_all && found_value_;
  const bool is_whole = whole_value_ && !is_number && (answer.is_latex || answer.is_all);
  const bool is_same_text = found_ && !found_->text.empty() && found_->text == answer.text;
  if (is_same_text && !is_whole) return true;
  const MathPtr& gold = is_whole ? whole_value_ : found_value_;
  const MathPtr value = gold ? parse_answer(answer) : nullptr;
  return value && is_same_answer(gold, value, work);
}

std::optional<bool> Solution::is_met_by_whole(std::string_view text, WorkBudget& work) const {
  const MathPtr& gold = whole_value_ ? whole_value_ : found_value_;
  if (!gold) return std::nullopt;
  if (const MathPtr chain = parse_plain_chain(text)) return is_same_answer(gold, chain, work);
  if (text.find('\\') != text.npos) return std::nullopt;
  text = without_full_stop(text);
  const auto time = clock_time(region_), given_time = clock_time(text);
  if (time && given_time) return time->is_met_by(*given_time);
  const std::string given = choices_in(text).letters;
  const bool are_choices = !choices_.letters.empty() && !given.empty();
  const bool choose_apart = are_choices && (given.size() > 1 || choices_.letters != given);
  if (choose_apart || have_different_numbers(region_, text)) return false;
  const MathPtr whole = parse_whole(text);
  if (!whole) return std::nullopt;
  const bool is_literal = is_date(text) || is_number_literal(text);
  // Where neither formula has dollar signs or signs of Unicode, math_verify finds a number in each.
  const bool is_comparable =
      (found_ && found_->is_latex) || is_literal || is_phrase(text) || is_inequality(*whole) ||
      has_unicode_math(region_) || has_unicode_math(text) ||
      (is_collection(*whole) && gold->kind == whole->kind && region_.find("{,}") == region_.npos);
  if (is_comparable && is_same_answer(gold, whole, work)) return true;
  const bool decides = is_literal || is_inequality(*whole) || is_collection(*whole) ||
                       whole->kind == MathKind::kMatrix || whole->is_function("ratio");
  return decides ? std::optional(false) : std::nullopt;
}

bool Solution::is_met_within_bounds(std::string_view completion) const {
  WorkBudget reading = reading_budget(completion), comparing(kComparing);
  const std::optional<std::string_view> tagged = tagged_answer(completion);
  const std::string region = tagged ? cleaned(*tagged) : std::string();
  if (tagged && is_met_by_text(region)) return true;
  const auto exact = tagged ? without_rounding(region) : std::nullopt;
  if (exact && is_met_within_bounds("<answer>" + std::string(*exact) + "</answer>")) return true;
  const std::optional<ExtractedAnswer> answer =
      tagged ? extract_answer(region, AnswerPlaces::kAnywhere, reading)
             : extract_answer(completion, AnswerPlaces::kAnchoredLatex, reading);
  if (answer && answer->is_latex && is_met_by_text(answer->source)) return true;
  if (tagged && !(answer && answer->is_latex)) {
    if (const auto is_met = is_met_by_whole(region, comparing)) return *is_met;
  }
  return answer && is_met_by_value(*answer, comparing);
}

bool Solution::is_met_by(std::string_view completion) const {
  try {
    const std::string valid = valid_text(completion);
    if (is_met_within_bounds(valid)) return true;
    if (!chosen_) return false;
    // "(B) 17" chooses another letter than "(C) 17".
    const std::string answer(tagged_answer(valid).value_or(boxed_content(valid, BoxedMode::kLast)));
    return choices_in(answer).letters.empty() && chosen_->is_met_within_bounds(valid);
  } catch (const TooMuchWork&) {
    return false;
  }
}

}  // namespace lockstep::reward
