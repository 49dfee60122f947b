// Finds the assistant's turns in a rendered conversation, and their weights in the loss.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"
#include "base/options.h"
#include "text/chat_template.h"

namespace lockstep::text {

/// Every template of the families writes a turn as ChatML: this header, the words, an end token.
constexpr std::string_view kAssistantHeader = "<|im_start|>assistant\n";
constexpr std::string_view kEndOfTurn = "<|im_end|>";

/// Which assistant turns of a dialogue the loss counts, unless a message itself says it.
enum class LossTurns : int {
  kAll,
  /// Those that follow the last message of a user or a tool that the assistant answered.
  kLast
};
std::span<const EnumName<LossTurns>> enum_names(LossTurns);

/// The factor of each message's loss; 0 if it is not trained on.
///
/// An assistant's message can say it itself: `loss` and `train` (true, false) win over `turns`;
/// `loss_scale` and `weight` (a number of at least 0) are factors where it is trained on. One key
/// that excludes it is enough. Null says nothing; other roles' keys are not looked at. Throws
/// FormatError "bad-row" for other values, and for axolotl's `train_detail`, which excludes parts
/// of a turn. Source: ms-swift 4.6, loss_scale/base.py (`loss`, `loss_scale`; there a factor
/// between 0 and 1 counts only with --is_binary_loss_scale false); OpenAI's fine-tuning API
/// (`weight` 0 and 1); axolotl (`train`). TRL reads none of them.
std::vector<float> message_weights(const Json& messages, LossTurns turns);

/// A part of a rendering that the loss counts, and its factor.
struct TrainedSpan {
  size_t begin = 0, end = 0;
  float weight = 1;
};

/// What a template appends for add_generation_prompt, split where the assistant's own words can
/// begin. It may append different texts behind different conversations.
class GenerationPrompt {
 public:
  /// `texts`: what it was seen to append, the likeliest first. ChatML's header is tried last.
  explicit GenerationPrompt(const std::vector<std::string>& texts);
  /// Offset of the assistant's own words in what was written for its turn: behind the prompt that
  /// a sampler is given, or, where the turn is rendered otherwise (older reasoning is dropped),
  /// behind its header; 0 where the turn has neither.
  size_t words_begin(std::string_view turn) const;
  /// The same for the answer that begins at `answer` in a whole rendering; its turn begins at
  /// `turn` or later. Unset where the template has a header and none stands there.
  std::optional<size_t> words_begin(std::string_view text, size_t turn, size_t answer) const;

 private:
  /// One text, and what every turn begins with, as far as it tells.
  struct Form {
    std::string text, header;
    size_t words_begin(std::string_view turn) const;
  };
  static Form form_of(std::string text);

  std::vector<Form> forms_;
};

/// Finds the turns of a conversation. Each function returns nothing if its way cannot find all
/// turns that have a weight; the spans are in order and do not overlap.
class TurnFinder {
 public:
  /// `end_token` is what ends a turn besides <|im_end|>, or "". The arguments must outlive this.
  TurnFinder(const Json& messages,
             std::span<const float> weights,
             const GenerationPrompt& prompt,
             std::string_view end_token)
      : messages_(messages), weights_(weights), prompt_(prompt), end_token_(end_token) {}

  /// Finds them by what the template wrote while its loop stood at a message.
  std::optional<std::vector<TrainedSpan>> by_loop(const RenderedChat& chat) const;
  /// Finds them by a rendering of anchored_messages(), which without the anchors must be `text`.
  std::optional<std::vector<TrainedSpan>> by_anchors(std::string_view text,
                                                     std::string_view anchored) const;
  /// The messages with an invisible character on either side of what the assistant says.
  Json anchored_messages() const;

 private:
  size_t words_end(std::string_view text, size_t from, size_t limit) const;
  size_t last_words_end(std::string_view turn, size_t from) const;

  const Json& messages_;
  std::span<const float> weights_;
  const GenerationPrompt& prompt_;
  std::string_view end_token_;
};

/// The spans that the template's own {% generation %} blocks mark, as transformers'
/// return_assistant_tokens_mask has them, with their messages' weights. Throws FormatError
/// "bad-row" if it is not clear to which block a weight belongs.
std::vector<TrainedSpan> marked_spans(const RenderedChat& chat,
                                      const Json& messages,
                                      std::span<const float> weights);

}  // namespace lockstep::text
