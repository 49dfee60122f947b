// Whether completions can end by themselves: checked before the first step.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "grpo/options.h"
#include "grpo/prompts.h"
#include "text/chat_encoder.h"

namespace lockstep::grpo {

/// What is known of how completions end.
struct StopSettings {
  std::span<const int64_t> stop_ids;
  std::span<const std::string> stop_words;
  /// How many ids the model can sample.
  int64_t vocab_size = 0;
  int64_t max_completion_length = 0;
};

/// Sentences for the user on what keeps completions from ending; none if they can end:
///   - there is no stop id that the model can sample, and no stop word;
///   - what the template writes behind an assistant's turn begins with no stop id;
///   - the answers in the rows (the assistant's last turn, else the solution) are longer than
///     max_completion_length in most of the first rows that have one.
std::vector<std::string> stop_warnings(const StopSettings& settings,
                                       const text::ChatEncoder& encoder,
                                       std::span<const Prompt> prompts);

}  // namespace lockstep::grpo
