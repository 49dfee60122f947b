// Samples one behind another, as a forward takes them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/random.h"
#include "model/decoder.h"
#include "ops/sequences.h"
#include "train/trainer.h"  // Sample

namespace lockstep::train {

/// Whether both samples begin with the same prompt, have scored tokens behind it, belong to the
/// same adapter, and have the same experts for the prompt.
bool have_same_prompt(const Sample& a, const Sample& b);

/// The keys of a step's dropout: a token's is a function of seed, step, its sample's adapter and
/// number, and its position. Neighbours that begin with the same prompt have the first one's keys
/// there, so that nothing depends on where micro-batches are cut and on whether prompts are shared.
class DropoutKeys {
 public:
  /// `samples` are all of the step, and outlive it.
  DropoutKeys(const DropoutStep& step, std::span<const Sample> samples);
  int64_t key(int64_t sample, int64_t position) const;

 private:
  std::span<const Sample> samples_;
  std::vector<RandomStream> streams_;
  /// The sample whose prompt each one shares.
  std::vector<int64_t> leaders_;
};

/// Samples as they are packed: `adapted` says which tokens have which adapter, `scored` which of
/// `rows` do.
struct PackedSamples {
  std::span<model::Adapter* const> adapters;
  /// Null: nothing is dropped.
  const DropoutKeys* dropout = nullptr;
  ops::PackedSequences sequences;
  model::AdapterRows adapted, scored;
  std::vector<int64_t> ids, rows, targets, kept_rows, twin_tokens, twin_rows, dropout_keys;
  /// The experts of the tokens, piece by piece (model::ExpertChoices::join).
  std::vector<std::pair<model::ExpertChoices, int64_t>> routed;
  /// Where the tokens of each sample lie: those of its prompt, if that is shared, and the others.
  struct Place {
    int64_t prompt = 0, shared = 0, first = 0, count = 0;
  };
  std::vector<Place> places;

  /// Appends tokens [first, last) of a sample as a sequence; `number` counts the step's samples.
  void append_tokens(
      const Sample& sample, int64_t number, int64_t first, int64_t last, int64_t parent);
  /// The first `shared` tokens of `sample` are the sequence that begins at token `start`: notes the
  /// rows that sampling kept for it beside those of `other`, which begins with the same prompt.
  void note_twins(const Sample& sample, const Sample& other, int64_t shared, int64_t start);
  /// A sample whose first `shared` tokens are sequence `parent`, which is there already; 0: it is
  /// whole.
  void append(const Sample& sample, int64_t number, int64_t shared, int64_t parent);

 private:
  const model::Adapter* adapter_of(const Sample& sample) const;
};

}  // namespace lockstep::train
