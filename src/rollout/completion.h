// What the sampler gives back for a prompt, and what decides its text.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace lockstep::rollout {

enum class FinishReason : int { kStop, kLength };
inline const char* finish_reason_name(FinishReason reason) {
  return reason == FinishReason::kStop ? "stop" : "length";
}

struct Completion {
  /// The stop token included.
  std::vector<int64_t> token_ids;
  /// One a token: after temperature (greedy: of temperature 1), before top-k and the like.
  std::vector<float> logprobs;
  FinishReason finish_reason = FinishReason::kLength;
  /// The last id is a stop id.
  bool has_stop_token = false;
  /// What ended it, if a string did; it is part of token_ids.
  std::optional<std::string> stop_string;
  /// With GenerationSettings::keep: its rows for prompt and completion, but for the last token,
  /// which no layer read.
  std::vector<int64_t> kept_rows;
};

/// What becomes of the stop string that ended a completion: people do not want to see it, and what
/// its last token brought behind it; rewards may look for it ("</answer>"), as in ms-swift, whose
/// rewards see the decoded ids.
enum class StopString : uint8_t { kCut, kKept };

/// The text of a completion: its ids decoded, special tokens kept, without the stop token that
/// ended it.
std::string completion_text(const Completion& completion,
                            const text::Tokenizer& tokenizer,
                            StopString stop_string);

/// Looks for stop strings in the text of a completion that grows token by token. Not thread-safe;
/// what is referred to must outlive it.
class StopStringFinder {
 public:
  StopStringFinder(const text::Tokenizer& tokenizer, std::span<const std::string> stop_strings);
  /// The stop string that stands first in the text so far, or nothing.
  std::optional<std::string> push(int64_t id);

 private:
  std::span<const std::string> stop_strings_;
  size_t longest_ = 0;
  text::StreamDecoder decoder_;
  std::string text_;
};

/// The text of a completion while it is sampled, by whole characters; what may be the beginning of
/// a stop string waits. All pieces together are completion_text with the stop string cut. Not
/// thread-safe; what is referred to must outlive it.
class CompletionStream {
 public:
  CompletionStream(const text::Tokenizer& tokenizer, std::span<const std::string> stop_strings);
  /// What can be shown now that a token has come.
  std::string push(const Completion& so_far);
  /// What is left of the whole.
  std::string finish(const Completion& whole);

 private:
  const text::Tokenizer* tokenizer_;
  text::StreamDecoder decoder_;
  std::string text_;
  /// Bytes at the end that may begin a stop string, and bytes that have been shown.
  size_t held_ = 0, shown_ = 0;
};

}  // namespace lockstep::rollout
