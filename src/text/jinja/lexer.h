// Tokens of a Jinja template, with trim_blocks and lstrip_blocks on.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::text::jinja {

enum class TokenKind : uint8_t {
  /// Text between tags, stripped as the tags ask.
  kData,
  /// {{
  kVariableBegin,
  /// }}
  kVariableEnd,
  /// {%
  kBlockBegin,
  /// %}
  kBlockEnd,
  kName,
  /// With its escapes resolved.
  kString,
  /// Digits as Python reads them, without underscores.
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;
  int line = 1;

  bool is(TokenKind wanted, std::string_view with) const { return kind == wanted && text == with; }
  bool is_name(std::string_view name) const { return is(TokenKind::kName, name); }
  bool is_operator(std::string_view symbol) const { return is(TokenKind::kOperator, symbol); }
};

/// The tokens of `source` with kEnd at the end; comments are gone, raw blocks are data. One line
/// end at the end of the source is dropped and \r\n becomes \n, as in Jinja.
///
/// Throws JinjaError "bad-template".
std::vector<Token> tokenize_template(std::string_view source);

}  // namespace lockstep::text::jinja
