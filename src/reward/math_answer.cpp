// Tags, extraction, parsing, comparison.
// SPDX-License-Identifier: Apache-2.0
#include "reward/math_answer.h"

#include <optional>
#include <string>

#include "reward/answer_extraction.h"
#include "reward/latex_normalize.h"
#include "reward/math_compare.h"
#include "reward/math_parser.h"
#include "text/jinja_string.h"

namespace lockstep::reward {
namespace {

/// The stripped inside of the first <answer>…</answer>.
std::optional<std::string_view> tagged_answer(std::string_view text) {
  constexpr std::string_view kOpen = "<answer>", kClose = "</answer>";
  const size_t open = text.find(kOpen);
  if (open == text.npos) return std::nullopt;
  const size_t begin = open + kOpen.size(), end = text.find(kClose, begin);
  if (end == text.npos) return std::nullopt;
  return text::jinja::strip(text.substr(begin, end - begin));
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

}  // namespace

bool is_correct_answer(std::string_view completion, std::string_view solution) {
  const std::optional<ExtractedAnswer> gold =
      extract_answer(tagged_answer(solution).value_or(solution), AnswerPlaces::kAnywhere);
  if (!gold) return false;
  const std::optional<std::string_view> tagged = tagged_answer(completion);
  const std::optional<ExtractedAnswer> answer =
      tagged ? extract_answer(*tagged, AnswerPlaces::kAnywhere)
             : extract_answer(completion, AnswerPlaces::kAnchoredLatex);
  if (!answer) return false;
  if (!gold->text.empty() && gold->text == answer->text) return true;
  const MathPtr gold_value = parse_answer(*gold), answer_value = parse_answer(*answer);
  return gold_value && answer_value && is_same_answer(*gold_value, *answer_value);
}

}  // namespace lockstep::reward
