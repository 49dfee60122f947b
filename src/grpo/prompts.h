// Makes prompts of rows: they are rendered by the checkpoint's chat template, encoded, and cut if
// they are too long.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "base/json.h"
#include "grpo/batch_plan.h"
#include "text/dataset.h"
#include "text/row_encoder.h"

namespace lockstep::grpo {

/// A prompt and the row that it was made from, which outlives it.
struct Prompt {
  const text::Row* row = nullptr;
  /// The row's messages without a trailing assistant turn.
  Json messages;
  /// The tools that it names: an array, or null.
  Json tools;
  text::EncodedPrompt encoded;
};

/// Turns rows into prompts. `options` and `encoder` must outlive it. Not thread-safe.
class PromptEncoder {
 public:
  /// `context`: the most tokens of a prompt with its completion; `completion`: the most tokens of
  /// that, unset: max_completion_length.
  PromptEncoder(const GrpoRunOptions& options,
                text::RowEncoder& encoder,
                int64_t context,
                std::optional<int64_t> completion = {});

  /// The tools that a row's prompt names; unset: its own.
  using ToolsOf = std::function<Json(const text::Row&)>;
  void set_tools(ToolsOf tools_of) { tools_of_ = std::move(tools_of); }

  /// Checks a row before it is encoded; throws FormatError "bad-row" for one that cannot be used.
  using RowCheck = std::function<void(const text::Row&)>;

  /// The prompts of rows, without those that --strict false or --truncation_strategy delete drops;
  /// logs lengths and counts. `name` is what the log calls the rows.
  /// Throws FormatError "bad-row"; ConfigError if no prompt could have room.
  std::vector<Prompt> encode(const char* name,
                             const text::Dataset& dataset,
                             const RowCheck& check) const;

 private:
  Prompt encode_one(const text::Row& row) const;

  const GrpoRunOptions* options_;
  text::RowEncoder* encoder_;
  int64_t context_, completion_;
  ToolsOf tools_of_;
};

/// For each prompt of a round, how many before it have the same ids: a key of its random numbers.
std::vector<uint64_t> occurrences_of(const std::vector<const Prompt*>& round);

/// The number of tokens of the longest prompt; 0 if there are no prompts.
int64_t longest_prompt(const std::vector<Prompt>& prompts);

}  // namespace lockstep::grpo
