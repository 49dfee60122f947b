// What a tokenizer.json and a tokenizer_config.json say, checked and in the form that the tokenizer
// works with.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"
#include "text/added_tokens.h"
#include "text/bpe.h"

namespace lockstep::text {

struct TokenizerFile {
  std::vector<std::string>
      /// Raw bytes by id, added tokens included; "" where no token is.
      bytes;
  /// Id of each single byte.
  std::array<int32_t, 256> byte_ids{};
  /// In order of rank.
  std::vector<Merge> merges;
  /// Largest id of model.vocab + 1.
  int64_t vocab_size = 0;
  bool ignores_merges = false;
  /// NFC.
  bool normalizes = false;
  /// The pattern of the split; "" if there is none.
  std::string pattern;
  std::vector<AddedToken> added;
  std::optional<std::string> eos_token, pad_token;
};

/// Throws FormatError "bad-tokenizer" at `where`, naming the field. `config` may be null.
TokenizerFile read_tokenizer(const Json& tokenizer, const Json& config, std::string_view where);

/// The character of the byte-level alphabet (GPT-2's) for a byte, as UTF-8.
const std::string& byte_level_char(unsigned char byte);
/// The bytes that a token of that alphabet stands for; a token with any other character is its own
/// text.
std::string byte_level_decode(std::string_view token);

}  // namespace lockstep::text
