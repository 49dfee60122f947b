// How an optimizer step's samples are cut into micro-batches: a function of the samples alone, not of the machine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lockstep::train {

/// Slots of an optimizer step. Gradients are summed within a slot in order, then over slots in a fixed tree, so that a sum
/// does not depend on how the step is split between per-device batch, accumulation and ranks. Part of the result's bits.
inline constexpr int64_t kNumSlots = 8;

/// A run of samples that are computed together.
struct MicroBatch {
  int64_t slot = 0;
  int64_t first = 0, last = 0;  ///< Samples [first, last) of the step.
};

/// What the plan knows of a sample.
struct SampleLength {
  int64_t tokens = 0;
  int64_t shared = 0;  ///< Of them, the prompt that it has in common with the sample before it.
};

/// Cuts samples into slots (contiguous, as equal in number as can be), and each slot into micro-batches of at most
/// `token_budget` tokens, shared ones counted once; a sample longer than the budget is a micro-batch of its own. In order of samples.
/// Units: lengths and budget in tokens.
std::vector<MicroBatch> plan_micro_batches(std::span<const SampleLength> lengths,
                                           int64_t token_budget);

}  // namespace lockstep::train
