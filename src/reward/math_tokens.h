// Tokens of written mathematics, for math_parser.cpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::reward {

/// What ends a parse that leads nowhere; never leaves parse_latex and parse_plain.
struct NotUnderstood {};

enum class TokenKind : uint8_t { kNumber, kLetter, kCommand, kSymbol, kEnd };
struct Token {
  TokenKind kind = TokenKind::kEnd;
  /// A command without its backslash.
  std::string text;
  /// Byte in the source.
  size_t begin = 0;
};

/// Tokens with kEnd at the end; spaces are gone, thousands separators between digits too.
/// Throws NotUnderstood.
std::vector<Token> tokenize_math(std::string_view text);

}  // namespace lockstep::reward
