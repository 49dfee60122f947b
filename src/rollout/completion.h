// What the sampler gives back for a prompt, and what decides its text.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "rollout/routed_experts.h"
#include "text/tokenizer.h"

namespace lockstep::rollout {

enum class FinishReason : int { kStop, kLength };
inline const char* finish_reason_name(FinishReason reason) {
  return reason == FinishReason::kStop ? "stop" : "length";
}

struct Completion {
  /// Includes the stop token.
  std::vector<int64_t> token_ids;
  /// One for each token: after temperature (1 for greedy sampling), before top-k, top-p and min-p.
  std::vector<float> logprobs;
  /// After top-k, top-p, min-p and penalties: what the tokens were drawn with. Empty without these.
  std::vector<float> processed_logprobs;
  FinishReason finish_reason = FinishReason::kLength;
  /// The last id is a stop id.
  bool has_stop_token = false;
  /// The stop string that ended it, if one did; it is part of token_ids.
  std::optional<std::string> stop_string;
  /// With GenerationSettings::keep: its rows for prompt and completion, without the last token,
  /// which no layer read.
  std::vector<int64_t> kept_rows;
  /// With RequestSettings::record_experts: those of the prompt, which all completions share (null
  /// without), and of the completion but for its last token.
  std::shared_ptr<const RoutedExperts> prompt_experts;
  RoutedExperts experts;
};

/// What becomes of the stop string that ended a completion. People do not want to see it, nor what
/// its last token brought behind it. Rewards may look for it ("</answer>"), as in ms-swift, whose
/// rewards see the decoded ids.
enum class StopString : uint8_t {
  kCut,
  kKept,
  /// It stays, and what its last token brought behind it goes.
  kLast,
};

/// How the text of a completion is shown.
struct TextForm {
  StopString stop_string = StopString::kCut;
  /// Leaves out the text of special tokens.
  bool skip_special = false;
};

/// The text of a completion: its ids decoded, special tokens kept, without the stop token that
/// ended it.
std::string completion_text(const Completion& completion,
                            const text::Tokenizer& tokenizer,
                            StopString stop_string);

/// Looks for stop strings in the text of a completion that grows token by token. Its arguments must
/// outlive it. Not thread-safe.
class StopStringFinder {
 public:
  StopStringFinder(const text::Tokenizer& tokenizer, std::span<const std::string> stop_strings);
  /// The stop string that comes first in the text so far, or nothing.
  std::optional<std::string> push(int64_t id);

 private:
  std::span<const std::string> stop_strings_;
  size_t longest_ = 0;
  text::StreamDecoder decoder_;
  std::string text_;
};

/// The text of a completion while it is sampled, in whole characters; text that may begin a stop
/// string waits. All pieces together are the completion's text in this form. Stop strings are
/// looked for in the text with special tokens, as the sampler does. Its arguments must outlive it.
/// Not thread-safe.
class CompletionStream {
 public:
  CompletionStream(const text::Tokenizer& tokenizer,
                   std::span<const std::string> stop_strings,
                   const TextForm& form = {});
  /// The text that can be shown now that a token has come. A stop token that ends the completion is
  /// none of its text: it is not pushed.
  std::string push(int64_t id);
  /// The text that has not been shown when the completion ends, by `stop_string` if it is set,
  /// which is then in the text of the token that came last.
  std::string finish(const std::optional<std::string>& stop_string);

  /// The same for a completion that holds its tokens.
  std::string push(const Completion& so_far);
  std::string finish(const Completion& whole);

 private:
  std::string take(size_t end);

  const text::Tokenizer* tokenizer_;
  std::span<const std::string> stop_strings_;
  TextForm form_;
  text::StreamDecoder decoder_;
  std::string text_;
  /// Bytes [begin, end) of `text_` that are not shown, behind what was shown.
  std::vector<std::pair<size_t, size_t>> hidden_;
  /// How many bytes at the end may begin a stop string, how many have been shown, and how many
  /// there were before the last token.
  size_t held_ = 0, shown_ = 0, before_last_ = 0;
};

}  // namespace lockstep::rollout
