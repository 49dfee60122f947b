// Cuts text into the words that BPE works on, by the split pattern of a tokenizer.json.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "base/regex.h"

namespace lockstep::text {

/// The patterns that are matched by hand-written code; any other goes to PCRE2.
inline constexpr std::string_view kQwen35Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kQwen3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
/// The pattern of a ByteLevel pre-tokenizer with use_regex.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Splits valid UTF-8 into words; what no alternative of the pattern matches is a word too
/// (behaviour "Isolated").
///
/// Threads: any, with a RegexScratch for each.
class Pretokenizer {
 public:
  /// Throws FormatError "bad-tokenizer" at `where` for a pattern that PCRE2 refuses.
  Pretokenizer(std::string_view pattern, std::string_view where);
  /// One past the last byte of the word that starts at `begin` < text.size(); words follow each
  /// other without gaps.
  size_t word_end(std::string_view text, size_t begin, RegexScratch& scratch) const;
  /// Whether the pattern is matched by hand-written code.
  bool is_known() const { return regex_ == nullptr; }

 private:
  bool marks_are_letters_ = false;
  std::unique_ptr<Regex> regex_;
};

}  // namespace lockstep::text
