// Tokens of written mathematics, for the parser.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::reward {

/// What ends a parse that leads nowhere; it never leaves parse_latex and parse_plain.
struct NotUnderstood {};

enum class TokenKind : uint8_t { kNumber, kLetter, kCommand, kSymbol, kEnd };
struct Token {
  TokenKind kind = TokenKind::kEnd;
  /// A command without its backslash. A number without separators of thousands; a period that
  /// repeats stands in parentheses: "0.1(6)".
  std::string text;
  /// Bytes in the source.
  size_t begin = 0, end = 0;
};

/// Tokens with kEnd at the end; spaces are gone. Thousands may be separated by commas (not between
/// brackets, where a comma separates elements), thin spaces, spaces or, from two groups on, points.
/// A power of ten as programs write it ("1.5e-3") is part of the number. Names of functions without
/// a backslash ("sqrt") are commands.
/// Throws NotUnderstood.
std::vector<Token> tokenize_math(std::string_view text);

}  // namespace lockstep::reward
