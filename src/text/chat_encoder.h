// Turns conversations into token ids: prompts to answer, and dialogues to learn from.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json_fwd.h"
#include "text/assistant_turns.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace lockstep::text {

/// A prompt, ready for the sampler.
struct EncodedPrompt {
  std::vector<int64_t> ids;
  /// The rendered text.
  std::string text;
  /// What the template puts after the assistant's header ("<think>\n"): part of the prompt, and put
  /// back in front of the completion's text for rewards and logs.
  std::string response_prefix;
};

/// A dialogue to learn from; `mask` is 1 for tokens that the loss counts.
struct EncodedDialogue {
  std::vector<int64_t> ids;
  std::vector<uint8_t> mask;
  /// The factor of each token's loss; empty if it is 1 wherever the mask is 1.
  std::vector<float> weights;
};

/// How the rendering of a prompt ends.
enum class PromptEnd : uint8_t {
  /// With the header of the assistant's next turn.
  kGenerationPrompt,
  /// Behind the last message.
  kNone,
  /// Inside the last message, behind its content, which the sampler goes on with.
  kContinued,
};

struct PromptForm {
  PromptEnd end = PromptEnd::kGenerationPrompt;
  /// Stands behind what the template wrote: what the answer is made to begin with.
  std::string opening;
};

/// The parts of a row that a template sees.
struct Conversation {
  const Json* messages = nullptr;
  /// Array, or null.
  const Json* tools = nullptr;
  /// chat_template_kwargs of the row, or null.
  const Json* variables = nullptr;
};

/// Renders and encodes conversations with a checkpoint's own template and tokenizer.
///
/// The arguments of a tool call may be a string of JSON, as OpenAI's API has them: a template that
/// writes such a string as it stands (Qwen3's) gets the string, as with transformers; any other one
/// (Qwen3.5's walks the pairs) gets the object in it, as with ms-swift and vLLM. Threads: safe
/// after construction.
class ChatEncoder {
 public:
  /// `enable_thinking` is given to the template unless a row says it itself; if it is unset, the
  /// template decides. Throws what Tokenizer and ChatTemplate throw.
  ChatEncoder(const std::filesystem::path& model, std::optional<bool> enable_thinking = {});
  ChatEncoder(Tokenizer tokenizer,
              ChatTemplate chat_template,
              std::optional<bool> enable_thinking = {});

  /// The prompt that asks for the next assistant turn, or for the rest of one. Throws FormatError
  /// "bad-row" from the template, and where a template does not show the content of the message to
  /// go on with.
  EncodedPrompt encode_prompt(const Conversation& conversation, const PromptForm& form = {}) const;
  /// What the template writes from the end of a turn of the assistant up to its next one, where the
  /// messages of others stand between them: `messages` of the conversation are those alone. The
  /// text begins with what ends a turn, which a sampled one may have already (`ended_by`: its last
  /// token, if that is a stop token); then it is left out. A conversation grows by it without being
  /// rendered again: what templates do to earlier turns (Qwen3's leaves their thoughts out) would
  /// make other tokens of those that were sampled. Source: TRL 1.16,
  /// GRPOTrainer._get_tool_suffix_ids, which does the same with a dummy conversation.
  EncodedPrompt encode_follow_up(const Conversation& conversation,
                                 std::optional<int64_t> ended_by = {}) const;
  /// All ids of a conversation as rendered, without a generation prompt.
  std::vector<int64_t> encode(const Conversation& conversation) const;
  /// A conversation with the assistant's turns marked: what {% generation %} blocks of the template
  /// mark, else each turn from behind its header to its end token, that included. The template may
  /// begin with a turn of the assistant, or write several behind one another.
  ///
  /// Pieces inside and outside the turns are encoded apart, as the sampler sees prompt and
  /// completion. Throws FormatError "bad-row" if there is no assistant turn, or if the
  /// template writes one in such a way that it cannot be found.
  EncodedDialogue encode_dialogue(const Conversation& conversation, LossTurns turns) const;

  const Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  RenderedChat render(const Conversation& conversation,
                      const Json& messages,
                      bool add_generation_prompt) const;
  std::string render_open(const Conversation& conversation) const;
  std::pair<std::string, std::string> render_both(const Conversation& conversation,
                                                  const Json& messages,
                                                  const std::string* rendered) const;
  GenerationPrompt generation_prompts(const Conversation& conversation,
                                      const std::string& rendered) const;
  std::vector<TrainedSpan> trained_spans(const Conversation& conversation,
                                         const RenderedChat& chat,
                                         const std::vector<float>& weights) const;

  Tokenizer tokenizer_;
  ChatTemplate template_;
  std::optional<bool> enable_thinking_;
};

}  // namespace lockstep::text
