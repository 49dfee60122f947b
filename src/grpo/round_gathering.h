// A round of sampling that all ranks of a run make together.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <vector>

#include "grpo/rewarded_groups.h"
#include "model/weights.h"
#include "parallel/group.h"

namespace lockstep::grpo {

/// The groups of each round that a rank samples and rewards, where the first `samplers` of them do
/// so.
inline RoundPart part_of(const parallel::Group& ranks, int64_t samplers) {
  return {static_cast<size_t>(ranks.rank()), static_cast<size_t>(samplers)};
}
inline RoundPart part_of(const parallel::Group& ranks) { return part_of(ranks, ranks.size()); }

/// Whether a rank trains on what it has sampled itself, so that what layers read meanwhile is
/// there.
inline bool trains_where_it_samples(const parallel::Group& ranks) { return ranks.size() == 1; }

/// The whole round of these prompts, on every rank the one that one rank would have made. `sample`
/// and `judge` make `own_part`, this rank's; in between it computes for the ranks that still sample
/// with experts of `weights` that ranks share out. What the two throw all ranks throw, as
/// parallel::gather_results() says, but for an error in a forward of several ranks, which leaves
/// them where they are.
RewardedGroups gather_round(parallel::Group& ranks,
                            const RoundPart& own_part,
                            const std::vector<const Prompt*>& prompts,
                            const model::ModelWeights& weights,
                            const std::function<SampledGroups()>& sample,
                            const std::function<JudgedGroups(SampledGroups)>& judge);

}  // namespace lockstep::grpo
