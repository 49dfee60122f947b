// One forward of the sampler: parts of sequences in, the hidden states behind them out.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T tokens of a part, D model dim, V vocabulary, N items (docs/shapes.md).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/decoder.h"
#include "model/layer_inputs.h"
#include "rollout/routed_experts.h"

namespace lockstep::rollout {

/// Tokens of a sequence that a step computes, and where its caches lie.
struct StepItem {
  std::span<const int64_t> tokens;
  /// The position of the first of them.
  int64_t first = 0;
  int32_t slot = 0;
  const std::vector<int32_t>* pages = nullptr;
  const model::Adapter* adapter = nullptr;
  /// Whether the logits behind the last token are wanted.
  bool draws = false;
  /// Whether the hidden states of all tokens are wanted.
  bool scores = false;
  /// What the layers read for tokens [kept, count) goes to the rows that begin with kept_row.
  int64_t kept = 0, kept_row = 0;
  /// Whether the experts of its tokens are wanted.
  RecordExperts experts = RecordExperts::kNothing;
};

/// Some items of a step, which one forward computes.
class StepPart {
 public:
  explicit StepPart(cache::CacheTensors& cache) { cached_.tensors = &cache; }
  void append(size_t index, const StepItem& item);
  /// Runs the forward. `keep` may be null.
  void compute(const model::Decoder& decoder,
               const ops::VocabularyHead& head,
               bool exact,
               model::LayerInputs* keep);

  /// The items by their numbers in the step, and of those the ones that draw, in order.
  const std::vector<size_t>& items() const { return items_; }
  const std::vector<size_t>& drawing() const { return drawing_; }
  /// [drawing, V] float32
  const at::Tensor& logits() const { return logits_; }
  /// The hidden states, as the head reads them, of an item's last token [D] and of all of its
  /// tokens [count, D], if they were wanted. `place` counts items().
  at::Tensor last_hidden(size_t place) const;
  at::Tensor hidden(size_t place) const;
  /// The experts of an item's tokens, if they were wanted.
  model::ExpertChoices experts(size_t place) const;

 private:
  /// Tokens of the part whose rows are kept one behind another.
  struct KeptRun {
    int64_t token = 0, count = 0, row = 0;
  };

  model::CachedBatch cached_;
  std::vector<int64_t> ids_, positions_, last_rows_, drawn_rows_;
  std::vector<const std::vector<int32_t>*> tables_;
  model::AdapterRows adapters_, drawn_adapters_;
  std::vector<size_t> items_, drawing_;
  std::vector<KeptRun> kept_;
  bool scores_ = false;
  RecordExperts records_ = RecordExperts::kNothing;
  model::ExpertChoices experts_;
  at::Tensor hidden_, last_hidden_, logits_;
};

/// Cuts a step into one part that all threads share, or into a part for each thread if each has
/// enough to do. A sequence's bits do not depend on the others of its part, and one parallel region
/// for a whole forward is faster than many small ones.
std::vector<StepPart> make_parts(std::span<const StepItem> items,
                                 cache::CacheTensors& cache,
                                 const model::ModelWeights& weights);

}  // namespace lockstep::rollout
