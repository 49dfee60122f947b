// Answers as texts: what is left without the marks that only set them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace lockstep::reward {

/// An answer without what only sets it: space around it, dollar signs, \boxed, \text, bold type and
/// code of Markdown, a full stop, the brackets of a choice "(C)"; single spaces, and none beside
/// signs.
std::string trimmed_answer(std::string_view text);

/// Without Markdown's ** around words; powers (2**10) stay.
std::string without_emphasis(std::string_view text);

/// Whether a text without dollar signs may be a formula as a whole: no words but names of
/// functions.
bool may_be_formula(std::string_view text);

/// Whether a text consists of a few words and nothing else.
bool is_phrase(std::string_view text);

}  // namespace lockstep::reward
