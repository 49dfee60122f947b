// SPDX-License-Identifier: Apache-2.0
#include "reward/rouge_l.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "text/jinja/string.h"

namespace lockstep::reward {
namespace {

using Words = std::vector<std::string>;

/// The words of each sentence; one of white space alone has one empty word, as with the package.
std::vector<Words> sentences_of(std::string_view text) {
  std::vector<Words> sentences;
  for (const std::string& part : text::jinja::split(text, ".", -1)) {
    if (part.empty()) continue;
    Words words = text::jinja::split(part, std::nullopt, -1);
    if (words.empty()) words.emplace_back();
    sentences.push_back(std::move(words));
  }
  return sentences;
}

std::set<std::string> words_of(const std::vector<Words>& sentences) {
  std::set<std::string> words;
  for (const Words& sentence : sentences) words.insert(sentence.begin(), sentence.end());
  return words;
}

/// Adds the words of a longest common subsequence. Of several the package's is taken: from the end,
/// a step back in `y` unless one in `x` leaves a longer one.
void add_common(const Words& x, const Words& y, std::set<std::string>& words) {
  const size_t columns = y.size() + 1;
  std::vector<int32_t> length((x.size() + 1) * columns, 0);
  const auto at = [&](size_t i, size_t j) -> int32_t& { return length[i * columns + j]; };
  for (size_t i = 1; i <= x.size(); ++i)
    for (size_t j = 1; j <= y.size(); ++j)
      at(i, j) = x[i - 1] == y[j - 1] ? at(i - 1, j - 1) + 1 : std::max(at(i - 1, j), at(i, j - 1));
  for (size_t i = x.size(), j = y.size(); i > 0 && j > 0;) {
    if (x[i - 1] == y[j - 1]) {
      words.insert(x[i - 1]);
      --i;
      --j;
    } else if (at(i - 1, j) > at(i, j - 1)) {
      --i;
    } else {
      --j;
    }
  }
}

}  // namespace

std::optional<double> rouge_l(std::string_view hypothesis, std::string_view reference) {
  const std::vector<Words> hypotheses = sentences_of(hypothesis),
                           references = sentences_of(reference);
  if (hypotheses.empty() || references.empty()) return std::nullopt;
  std::set<std::string> common;
  for (const Words& x : references)
    for (const Words& y : hypotheses) add_common(x, y, common);
  const auto count = static_cast<double>(common.size());
  const double recall = count / static_cast<double>(words_of(references).size()),
               precision = count / static_cast<double>(words_of(hypotheses).size());
  return 2.0 * ((precision * recall) / (precision + recall + 1e-8));
}

}  // namespace lockstep::reward
