// Reading an answer from a text and judging it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace lockstep::reward {

/// Whether a completion gives the answer of a solution: ms-swift's MathAccuracy.
///
/// Of both texts counts what stands in the first <answer>…</answer>, else everything. The
/// solution's answer may stand anywhere; so may the completion's behind a tag, and otherwise only
/// LaTeX in a box or behind the word "answer". A solution without a recognisable answer is never
/// met.
bool is_correct_answer(std::string_view completion, std::string_view solution);

}  // namespace lockstep::reward
