// How an optimizer step's samples are cut into micro-batches: a function of the samples alone, not
// of the machine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lockstep::train {

/// Slots of an optimizer step. Gradients are summed within a slot in order, then over slots in a
/// fixed tree, so that a sum does not depend on how the step is split between per-device batch,
/// accumulation and ranks. Part of the result's bits.
inline constexpr int64_t kNumSlots = 8;

/// A run of samples that are computed together.
struct MicroBatch {
  int64_t slot = 0;
  /// Samples [first, last) of the step.
  int64_t first = 0, last = 0;
  int64_t tokens = 0;
};

/// What the plan knows of a sample.
struct SampleLength {
  int64_t tokens = 0;
  /// Of them, the prompt that it has in common with the sample before it.
  int64_t shared = 0;
};

/// Cuts samples into slots, and each slot into micro-batches of at most `token_budget` tokens; a
/// sample longer than the budget is a micro-batch of its own. In order of samples.
///
/// The samples of one prompt stay in one slot, where the prompt is computed once, unless that would
/// make the longest slot longer than it need be: longer than `token_budget` (a slot of one
/// micro-batch is as short as any) and than the longest slot of the shortest possible cut between
/// any two samples. Where prompts have to be cut, as few are as can be. Whatever stays together is
/// spread over as many slots as there are. A function of lengths, budget and kNumSlots alone.
/// Units: lengths and budget in tokens; a slot counts what it computes, shared prompts once.
std::vector<MicroBatch> plan_micro_batches(std::span<const SampleLength> lengths,
                                           int64_t token_budget);

/// Memory of a step's backward pass, in bytes.
struct WaveCosts {
  /// A float32 sum of the head's gradients, and of all layers'.
  int64_t head = 0, layers = 0;
  /// What a token keeps from its forward to its backward.
  int64_t token = 0;
};

/// How many waves a step's micro-batches are best cut into, and what that needs. The micro-batches
/// of a wave go backward together, a layer at a time, so that only one layer's sums of slots live
/// beside the finished ones; but the activations of all of them wait for it.
struct Waves {
  /// End of each wave among the micro-batches.
  std::vector<size_t> ends;
  int64_t bytes = 0;
};
/// The cut into 1, 2, 4 or 8 waves of whole slots, or into single micro-batches, that needs the
/// least memory; the fewest waves where equal. No bit of a gradient depends on it.
Waves plan_waves(std::span<const MicroBatch> plan, const WaveCosts& costs);

}  // namespace lockstep::train
