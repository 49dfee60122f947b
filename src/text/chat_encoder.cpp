// SPDX-License-Identifier: Apache-2.0
#include "text/chat_encoder.h"

#include "base/check.h"
#include "base/json.h"

namespace lockstep::text {
namespace {

/// Every template of the families writes turns as ChatML: header, newline, content, end token.
constexpr std::string_view kAssistantHeader = "<|im_start|>assistant\n";
constexpr std::string_view kEndOfTurn = "<|im_end|>";

}  // namespace

std::span<const EnumName<LossTurns>> enum_names(LossTurns) {
  static constexpr EnumName<LossTurns> kNames[] = {{LossTurns::kAll, "default"},
                                                   {LossTurns::kLast, "last_round"}};
  return kNames;
}

ChatEncoder::ChatEncoder(const std::filesystem::path& model, std::optional<bool> enable_thinking)
    : tokenizer_(Tokenizer::from_directory(model)),
      template_(ChatTemplate::from_directory(model)),
      enable_thinking_(enable_thinking) {}

std::string ChatEncoder::render(const Conversation& conversation,
                                const Json& messages,
                                bool add_generation_prompt) const {
  Json variables = Json::object();
  if (enable_thinking_) variables["enable_thinking"] = *enable_thinking_;
  // A row's own word wins over the flag (spec grpo.md 1.13).
  if (conversation.variables && conversation.variables->is_object())
    for (const auto& [key, value] : conversation.variables->items()) variables[key] = value;
  const bool has_tools =
      conversation.tools && conversation.tools->is_array() && !conversation.tools->empty();
  return template_.render({.messages = &messages,
                           .tools = has_tools ? conversation.tools : nullptr,
                           .add_generation_prompt = add_generation_prompt,
                           .variables = &variables});
}

EncodedPrompt ChatEncoder::encode_prompt(const Conversation& conversation) const {
  EncodedPrompt prompt;
  prompt.text = render(conversation, *conversation.messages, true);
  const size_t header = prompt.text.rfind(kAssistantHeader);
  if (header != std::string::npos)
    prompt.response_prefix = prompt.text.substr(header + kAssistantHeader.size());
  // A header inside the last user message is not the generation prompt's.
  if (prompt.response_prefix.find(kEndOfTurn) != std::string::npos) prompt.response_prefix.clear();
  prompt.ids = tokenizer_.encode(prompt.text);
  return prompt;
}

std::vector<int64_t> ChatEncoder::encode(const Conversation& conversation) const {
  return tokenizer_.encode(render(conversation, *conversation.messages, false));
}

EncodedDialogue ChatEncoder::encode_dialogue(const Conversation& conversation,
                                             LossTurns turns) const {
  const Json& messages = *conversation.messages;
  std::vector<size_t> assistants;
  for (size_t i = 0; i < messages.size(); ++i)
    if (messages[i].value("role", "") == "assistant") assistants.push_back(i);
  if (assistants.empty())
    fail<FormatError>("bad-row", "messages", "expected an assistant turn to learn from, got none");
  if (turns == LossTurns::kLast) assistants.erase(assistants.begin(), assistants.end() - 1);

  const std::string whole = render(conversation, messages, false);
  EncodedDialogue dialogue;
  const auto append = [&](std::string_view piece, uint8_t mask) {
    if (piece.empty()) return;
    const auto ids = tokenizer_.encode(piece);
    dialogue.ids.insert(dialogue.ids.end(), ids.begin(), ids.end());
    dialogue.mask.resize(dialogue.ids.size(), mask);
  };
  size_t done = 0;
  for (const size_t index : assistants) {
    const Json before(
        Json::array_t(messages.begin(), messages.begin() + static_cast<int64_t>(index)));
    // What a sampler would be given in front of this turn; where the template renders a past turn
    // otherwise (older reasoning is dropped), the turn's plain header.
    std::string prompt = render(conversation, before, true);
    if (!whole.starts_with(prompt))
      prompt = render(conversation, before, false).append(kAssistantHeader);
    const size_t end = whole.find(kEndOfTurn, prompt.size());
    if (!whole.starts_with(prompt) || prompt.size() < done || end == std::string::npos)
      fail<FormatError>(
          "bad-row", "messages",
          "expected assistant turn {} between its header and {}, got another rendering", index,
          kEndOfTurn);
    append(std::string_view(whole).substr(done, prompt.size() - done), 0);
    done = end + kEndOfTurn.size();
    append(std::string_view(whole).substr(prompt.size(), done - prompt.size()), 1);
  }
  append(std::string_view(whole).substr(done), 0);
  return dialogue;
}

}  // namespace lockstep::text
