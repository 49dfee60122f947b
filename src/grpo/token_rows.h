// Rows that are already tokens, and rows of text on their way to tokens: one place for their
// checks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "grpo/options.h"
#include "text/chat_encoder.h"
#include "text/dataset.h"
#include "train/trainer.h"

namespace lockstep::grpo {

/// Ids and mask of a row {"input_ids", "completion_mask"?}. Throws FormatError "bad-row" at
/// `where`.
train::Sample token_row(const Json& row, int64_t vocab_size, std::string_view where);

/// Throws FormatError "bad-row" at `where` for an id outside the vocabulary.
void check_ids(const std::vector<int64_t>& ids, int64_t vocab_size, std::string_view where);

/// Rows that cannot be used: the first ends the run, or, where `strict` is false, each is dropped,
/// counted and (the first ten) told.
class BadRows {
 public:
  BadRows(std::string name, bool strict) : name_(std::move(name)), strict_(strict) {}

  /// Runs `use` on a row; a FormatError of it is the row's. Throws InterruptedError between rows.
  template <class Use>
  void guard(Use&& use) {
    throw_if_interrupted();
    try {
      use();
    } catch (const FormatError& error) {
      if (strict_ || error.code() != "bad-row") throw;
      if (++dropped_ <= 10) log_warning("{}: dropped: {}", name_, error.what());
    }
  }
  void report() const {
    if (dropped_) log_info("{}: {} more rows could not be used and were dropped", name_, dropped_);
  }

 private:
  std::string name_;
  bool strict_;
  int64_t dropped_ = 0;
};

/// Calls `encode` with the row's conversation; what tokenizer or template throw comes out as
/// "bad-row" at the row's place.
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
