// How an optimizer step's samples are cut into micro-batches: a function of the samples alone, not
// of the machine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lockstep::train {

/// The number of slots of an optimizer step. Gradients are summed within a slot in order, then over
/// slots in a fixed tree, so that a sum does not depend on how the step is split between per-device
/// batch, accumulation and ranks. Another number gives other bits.
inline constexpr int64_t kNumSlots = 8;

/// A run of samples that are computed together.
struct MicroBatch {
  int64_t slot = 0;
  /// Samples [first, last) of the step.
  int64_t first = 0, last = 0;
  int64_t tokens = 0;
};

/// What the plan knows about a sample.
struct SampleLength {
  int64_t tokens = 0;
  /// How many of them are the prompt that it shares with the sample before it.
  int64_t shared = 0;
};

/// Cuts samples, in their order, into slots, and each slot into micro-batches of at most
/// `token_budget` tokens; a sample longer than the budget is a micro-batch of its own.
///
/// The samples of one prompt stay in one slot, where the prompt is computed once, unless that would
/// make the longest slot longer than it need be: longer than `token_budget` (a slot of one
/// micro-batch is as short as any) and than the longest slot of the shortest possible cut between
/// any two samples. Where prompts have to be cut, as few are as can be. Whatever stays together is
/// spread over as many slots as there are; fewer units than slots lie as far apart as can be, so
/// that ranks, which have neighbouring slots, have as many each. A function of lengths, budget and
/// kNumSlots alone. Units: lengths and budget in tokens; a slot counts what it computes, shared
/// prompts once.
std::vector<MicroBatch> plan_micro_batches(std::span<const SampleLength> lengths,
                                           int64_t token_budget);

/// Throws ConfigError "bad-ranks" unless so many ranks have as many slots each.
void check_rank_count(int64_t ranks);

/// The micro-batches of the slots that a rank of `ranks` computes: neighbours of the tree, as many
/// on each rank. Their slots are counted from the rank's first one.
std::vector<MicroBatch> micro_batches_of_rank(std::span<const MicroBatch> plan,
                                              int64_t rank,
                                              int64_t ranks);

/// What the memory of a step's backward pass depends on, in bytes.
struct WaveCosts {
  /// A float32 sum of the head's gradients, and one of all layers' gradients.
  int64_t head = 0, layers = 0;
  /// A float32 sum of the gradients of the largest layer, and these gradients as the backward makes
  /// them.
  int64_t layer = 0, made = 0;
  /// What a token keeps from its forward to its backward.
  int64_t token = 0;
};

/// Into how many waves a step's micro-batches are best cut, and what memory that needs. The
/// micro-batches of a wave go backward together, a layer at a time, so that besides finished sums
/// only one layer's sums of slots are in memory; but the activations of all of them wait for it.
struct Waves {
  /// The index behind the last micro-batch of each wave.
  std::vector<size_t> ends;
  int64_t bytes = 0;
};
/// The cut into 1, 2, 4 or 8 waves of whole slots, or into single micro-batches, that needs the
/// least memory, and of equal ones the fewest waves. No bit of a gradient depends on it.
Waves plan_waves(std::span<const MicroBatch> plan, const WaveCosts& costs);

}  // namespace lockstep::train
