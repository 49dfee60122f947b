// ROUGE-L: how much two texts have in common, by their longest common subsequences of words.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string_view>

namespace lockstep::reward {

/// F of the summary-level ROUGE-L of two texts, as the Python package `rouge` gives it: sentences
/// end at each full stop, words are parted by white space and counted once each. With U the words
/// of the longest common subsequences of each sentence of one text with each of the other:
///
///   F = 2 P R / (P + R + 1e-8),  P = |U| / |words of hypothesis|,  R = |U| / |words of reference|
///
/// Unset where a text has no sentence. Source: Lin, ROUGE (2004), 3.2; rouge 1.0.1,
/// rouge_score.py, rouge_l_summary_level with its default exclusive=True.
std::optional<double> rouge_l(std::string_view hypothesis, std::string_view reference);

}  // namespace lockstep::reward
