// Supervised fine-tuning on the assistant turns of conversations.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "grpo/training_run.h"
#include "text/assistant_turns.h"

namespace lockstep::grpo {

/// What becomes of a row that is too long.
enum class RowTruncation : int { kRight, kLeft, kDelete };
std::span<const EnumName<RowTruncation>> enum_names(RowTruncation);

struct SftOptions {
  text::LossTurns loss_scale = text::LossTurns::kAll;
  std::optional<int64_t> max_length;
  RowTruncation truncation_strategy = RowTruncation::kRight;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("loss_scale", loss_scale,
          "default: the loss counts every assistant turn; last_round: the last one.");
    visit("max_length", max_length, "Longest row in tokens; unset: the model's context.",
          Range::at_least(2));
    visit("truncation_strategy", truncation_strategy,
          "right: too long a row loses its end; left: its beginning; delete: it is dropped.");
  }
};

/// One of the runs of a command.
struct SftRunSpec {
  TrainingOptions training;
  RunContext context;
};

/// Trains on the rows of each run in turns (turns.h) and writes their run directories.
///
/// The loss of an optimizer step is the mean over all its loss tokens, so that no split of the step
/// changes it. Rows with `input_ids` (and `completion_mask`, all ones unless given) are taken as
/// they are. Throws ConfigError, FormatError (nothing is written then), IoError, InterruptedError.
void run_sft(const SftOptions& options, std::span<const SftRunSpec> runs);

}  // namespace lockstep::grpo
