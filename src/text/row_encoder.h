// Rows to token ids.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "text/chat_encoder.h"
#include "text/row.h"

namespace lockstep::text {

/// Encodes the conversations of rows with a checkpoint's template and tokenizer, which are read
/// when the first conversation comes: rows of ids need neither.
///
/// Its functions throw FormatError "bad-row" at the row for what the template or the tokenizer
/// refuse, for ids that the model does not have, and where no token is left; "bad-template" and the
/// like for the checkpoint's own files. Not thread-safe.
class RowEncoder {
 public:
  RowEncoder(std::filesystem::path model,
             int64_t vocab_size,
             std::optional<bool> enable_thinking = {})
      : model_(std::move(model)), vocab_size_(vocab_size), enable_thinking_(enable_thinking) {}

  /// The prompt that asks for the next turn of the assistant.
  EncodedPrompt prompt(const Row& row);
  /// All of the conversation, without a generation prompt.
  std::vector<int64_t> conversation(const Row& row);
  /// The conversation with the turns marked that are trained on.
  EncodedDialogue dialogue(const Row& row, LossTurns turns);

  const ChatEncoder& chat();
  int64_t vocab_size() const { return vocab_size_; }

 private:
  void check(const std::vector<int64_t>& ids, const Row& row) const;

  std::filesystem::path model_;
  int64_t vocab_size_;
  std::optional<bool> enable_thinking_;
  std::unique_ptr<ChatEncoder> chat_;
};

}  // namespace lockstep::text
