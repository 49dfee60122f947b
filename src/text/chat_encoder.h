// Conversations to token ids: prompts to answer, and dialogues to learn from.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"
#include "base/options.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace lockstep::text {

/// A prompt, ready for the sampler.
struct EncodedPrompt {
  std::vector<int64_t> ids;
  /// As rendered.
  std::string text;
  /// What the template puts after the assistant's header ("<think>\n"): part of the prompt, and put
  /// back in front of the completion's text for rewards and logs (spec grpo.md 1.1).
  std::string response_prefix;
};

/// A dialogue to learn from: `mask` is 1 where the loss counts.
struct EncodedDialogue {
  std::vector<int64_t> ids;
  std::vector<uint8_t> mask;
};

/// Which assistant turns a dialogue's loss counts.
enum class LossTurns : int { kAll, kLast };
std::span<const EnumName<LossTurns>> enum_names(LossTurns);

/// A conversation's parts that a template sees.
struct Conversation {
  const Json* messages = nullptr;
  /// Array, or null.
  const Json* tools = nullptr;
  /// chat_template_kwargs of the row, or null.
  const Json* variables = nullptr;
};

/// Renders and encodes conversations with a checkpoint's own template and tokenizer. Threads: safe
/// after construction.
class ChatEncoder {
 public:
  /// `enable_thinking` is handed to the template where a row does not say it itself; unset: the
  /// template decides. Throws what Tokenizer and ChatTemplate throw.
  ChatEncoder(const std::filesystem::path& model, std::optional<bool> enable_thinking = {});

  /// The prompt that asks for the next assistant turn. Throws FormatError "bad-row" from the
  /// template.
  EncodedPrompt encode_prompt(const Conversation& conversation) const;
  /// All ids of a conversation as rendered, without a generation prompt.
  std::vector<int64_t> encode(const Conversation& conversation) const;
  /// A conversation with the assistant's turns marked: each from behind its header to its end
  /// token, that included.
  ///
  /// Pieces inside and outside the turns are encoded apart, as the sampler sees prompt and
  /// completion. Throws FormatError "bad-row" where there is no assistant turn, or where the
  /// template renders one so that it cannot be found.
  EncodedDialogue encode_dialogue(const Conversation& conversation, LossTurns turns) const;

  const Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  std::string render(const Conversation& conversation,
                     const Json& messages,
                     bool add_generation_prompt) const;

  Tokenizer tokenizer_;
  ChatTemplate template_;
  std::optional<bool> enable_thinking_;
};

}  // namespace lockstep::text
