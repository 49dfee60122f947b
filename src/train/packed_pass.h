// A micro-batch on its way through the trainer's model.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T tokens, S scored ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/decoder.h"
#include "model/layer_inputs.h"
#include "train/packed_samples.h"
#include "train/trainer.h"

namespace lockstep::train {

/// Whether all of a micro-batch's samples kept what the layers read, in one place.
bool are_kept(std::span<const Sample> samples);

/// A micro-batch on its way through the model.
struct Trainer::Packed {
  model::ForwardBatch batch;
  /// The adapters of the S rows below.
  std::vector<model::AdaptedRows> scored_adapters;
  /// [S] the rows of hidden states whose next token is scored.
  at::Tensor rows;
  /// [S] the tokens that follow them.
  at::Tensor targets;
  /// How many scored tokens each sample has.
  std::vector<int64_t> scored;
  /// Where the tokens of each sample lie.
  std::vector<PackedSamples::Place> places;
  /// What is known of the tokens' experts: how often each token counts (those of a shared prompt
  /// are each sample's), and what is replayed.
  model::RouterWatch watch;
  /// What the layers read for all of it, and the row of each token; null if some sample kept
  /// nothing.
  std::shared_ptr<const model::LayerInputs> kept;
  /// [T]
  std::vector<int64_t> kept_rows;

  /// Tokens that sampling computed more than once, for equal prompts of several groups, while
  /// training computes them once: the token, and another row that was kept for it.
  std::vector<int64_t> twin_tokens, twin_rows;

  /// Makes the forward heed `watch`.
  void use_watch() { batch.router = std::make_shared<model::RouterWatch>(watch); }
  /// The experts that the forward has recorded for each sample.
  model::ExpertChoices recorded(size_t sample) const {
    const PackedSamples::Place& place = places[sample];
    return model::ExpertChoices::join(
        {{watch.recorded.narrow(place.prompt, place.shared), place.shared},
         {watch.recorded.narrow(place.first, place.count), place.count}});
  }
  void add_replayed(ReplayCounts& counts) const;

  /// Those of the tokens whose next one is scored. [S]
  std::vector<int64_t> kept_rows_of_scored() const {
    std::vector<int64_t> scored_rows(static_cast<size_t>(rows.numel()));
    for (size_t i = 0; i < scored_rows.size(); ++i)
      scored_rows[i] = kept_rows[static_cast<size_t>(rows.const_data_ptr<int64_t>()[i])];
    return scored_rows;
  }
};

/// A micro-batch between its forward and the end of its backward.
struct Trainer::Pass {
  Packed packed;
  model::Decoder::Shared shared;
  /// What each layer read, as a leaf, and unless the layer is recomputed what it made.
  struct Tape {
    at::Tensor input, output;
  };
  std::vector<Tape> tapes;
  /// [T, D] what the final norm read, as a leaf.
  at::Tensor last;
  /// [T, D] what the next layer to go backward gave before, and must give again.
  at::Tensor expected;
  /// Whether it gave that while sampling.
  bool is_kept = false;
  /// Whether there is something to learn from: a scored token, or what routers do. If not, it goes
  /// backward only with other ranks, and adds nothing.
  bool learns = false;
  /// [T, D] the gradient of what the next layer to go backward made; undefined if nothing is
  /// scored.
  at::Tensor grad_hidden;
  /// The number of its first sample.
  int64_t first = 0;
  int64_t slot = 0;
  /// That of the micro-batch behind it, or as many as there are: slots before it are complete.
  int64_t next_slot = 0;

  /// Whether it has no tokens.
  bool is_idle() const { return !packed.batch.ids.defined(); }
};

}  // namespace lockstep::train
