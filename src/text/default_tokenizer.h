// The tokenizer and the chat template that ship with the program, for models made from nothing.
// The merges are learnt by tools/golden/default_tokenizer.py.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include "base/json_fwd.h"

namespace lockstep::text {

/// The least vocab_size: 256 bytes and the added tokens.
int64_t min_default_vocab_size();

/// A tokenizer.json of at most `vocab_size` tokens: bytes, as many merges as fit and were learnt,
/// and directly behind them the added tokens of the Qwen family (<|endoftext|>, <|im_start|>, …,
/// </think>). Qwen3.5's split pattern.
///
/// Throws ConfigError "bad-config" for a vocab_size below min_default_vocab_size().
Json default_tokenizer_json(int64_t vocab_size);
/// The tokenizer_config.json that goes with it: eos <|im_end|>, pad <|endoftext|>. transformers
/// loads both.
Json default_tokenizer_config();
/// ChatML with tools, reasoning_content and enable_thinking (false: an empty think block in the
/// generation prompt).
std::string_view default_chat_template();

}  // namespace lockstep::text
