// SPDX-License-Identifier: Apache-2.0
#include "text/row_encoder.h"

namespace lockstep::text {
namespace {

Conversation conversation_of(const Row& row) {
  return {&row.messages, row.tools.is_null() ? nullptr : &row.tools,
          row.chat_template_kwargs.is_null() ? nullptr : &row.chat_template_kwargs};
}

}  // namespace

const ChatEncoder& RowEncoder::chat() {
  if (!chat_) chat_ = std::make_unique<ChatEncoder>(model_, enable_thinking_);
  return *chat_;
}

void RowEncoder::check(const std::vector<int64_t>& ids, const Row& row) const {
  check_ids(ids, vocab_size_, row.where);
  if (ids.empty())
    fail<FormatError>("bad-row", row.where, "expected at least one id, got an empty rendering");
}

EncodedPrompt RowEncoder::prompt(const Row& row) {
  const ChatEncoder& encoder = chat();
  EncodedPrompt prompt =
      at_row(row.where, [&] { return encoder.encode_prompt(conversation_of(row)); });
  check(prompt.ids, row);
  return prompt;
}

std::vector<int64_t> RowEncoder::conversation(const Row& row) {
  const ChatEncoder& encoder = chat();
  std::vector<int64_t> ids =
      at_row(row.where, [&] { return encoder.encode(conversation_of(row)); });
  check(ids, row);
  return ids;
}

EncodedDialogue RowEncoder::dialogue(const Row& row, LossTurns turns) {
  const ChatEncoder& encoder = chat();
  EncodedDialogue dialogue =
      at_row(row.where, [&] { return encoder.encode_dialogue(conversation_of(row), turns); });
  check(dialogue.ids, row);
  return dialogue;
}

}  // namespace lockstep::text
