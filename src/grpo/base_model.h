// What the runs of a command share: the model that is trained, or beside which adapters are.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/json.h"
#include "grpo/training_run.h"
#include "text/row_encoder.h"
#include "train/hf_checkpoint.h"

namespace lockstep::grpo {

/// It is loaded once, however many runs there are. Not thread-safe.
struct BaseModel {
  /// Loads --model; where its own weights are trained and the run is resumed, those of the
  /// checkpoint. Throws what train::load_model() throws.
  /// A rank loads no more than it holds later on, but where `is_read_whole`: before the first step
  /// somebody reads all weights.
  BaseModel(const TrainingOptions& options, const RunContext& context, bool is_read_whole = false);

  /// How much memory the process held before.
  double program_gib;
  /// Without an adapter.
  train::LoadedModel loaded;
  /// The digest of the weights that --model names, which a resumed run may not load, and of its
  /// companion files.
  Json digest;
  text::RowEncoder encoder;
};

}  // namespace lockstep::grpo
