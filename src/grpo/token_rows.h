// Rows that are already tokens, and rows of text on their way to tokens: one place for their checks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "grpo/options.h"
#include "text/chat_encoder.h"
#include "text/dataset.h"
#include "train/trainer.h"

namespace lockstep::grpo {

/// Whether the first row of the first file has `input_ids`.
bool is_token_dataset(const DataOptions& options);

/// Rows `{"input_ids", "completion_mask"?}` of JSON-lines files. Throws FormatError "bad-row", "empty-dataset".
std::vector<train::Sample> load_token_rows(const DataOptions& options, int64_t vocab_size);

/// A row's ids and mask. Throws FormatError "bad-row" at `where`.
train::Sample token_row(const Json& row, int64_t vocab_size, std::string_view where);

/// Throws FormatError "bad-row" at `where` for an id outside the vocabulary.
void check_ids(const std::vector<int64_t>& ids, int64_t vocab_size, std::string_view where);

/// Calls `encode` with the row's conversation; what tokenizer or template throw comes out as "bad-row" at the row's place.
template <class Encode>
auto encode_row(const text::Row& row, Encode&& encode) {
  try {
    return encode(text::Conversation{
        &row.messages, row.tools.is_null() ? nullptr : &row.tools,
        row.chat_template_kwargs.is_null() ? nullptr : &row.chat_template_kwargs});
  } catch (const FormatError& error) {
    if (error.code() == "bad-template") throw;
    fail<FormatError>("bad-row", row.where, "{}", error.what());
  }
}

}  // namespace lockstep::grpo
