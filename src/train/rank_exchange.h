// What the ranks of a trainer tell one another of a step, so that all of them know all of it.
// SPDX-License-Identifier: Apache-2.0
//
// Each rank computes the micro-batches of neighbouring slots (plan.h), so that lists in the order
// of ranks are lists in the order of samples.
#pragma once

#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/decoder.h"
#include "parallel/group.h"
#include "train/gradient_sums.h"
#include "train/trainer.h"

namespace lockstep::train {

/// The scores of all samples, of which each rank brings those of its own, in order. `shape` says of
/// the experts that are recorded; an undefined one, that none are.
std::vector<SampleScores> gather_scores(parallel::Group& ranks,
                                        std::span<const Sample> samples,
                                        std::vector<SampleScores> own,
                                        bool with_entropy,
                                        const model::ExpertChoices& shape);

/// Adds the sums of all ranks in the tree of slots, and leaves of each those elements that are this
/// rank's. `gradients[i]`, for the `indices` of parameters, is this rank's sum, or undefined; it
/// stays so if it is on all ranks.
void sum_over_ranks(const Shards& shards,
                    const std::vector<model::Parameter*>& parameters,
                    std::span<const size_t> indices,
                    std::vector<at::Tensor>& gradients);
/// A float32 gradient of this rank's elements, of the parameter's shape if they are all. Its values
/// are undefined.
at::Tensor empty_gradient(const Shards& shards, const model::Parameter& parameter);
/// The sums of an embedding's rows, of all ranks.
RowSums sum_over_ranks(parallel::Group& ranks, RowSums own);

/// Counts of all ranks' micro-batches, added in their order.
model::RouterCounts gather_counts(parallel::Group& ranks,
                                  const std::vector<model::RouterCounts>& own,
                                  int64_t experts);
ReplayCounts gather_counts(parallel::Group& ranks, const ReplayCounts& own);

}  // namespace lockstep::train
