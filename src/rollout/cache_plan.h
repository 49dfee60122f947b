// How the sampler's memory is shared out between pages and state slots.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "cache/cache_tensors.h"  // CacheSpec
#include "model/weights.h"
#include "rollout/scheduler.h"

namespace lockstep::rollout {

inline constexpr int64_t kPageTokens = 64;
/// A sequence holds one slot, and the state that its prompt left another one.
inline constexpr int64_t kLeastSlots = 2;

/// The pages of a sequence.
int64_t pages_for(int64_t tokens);

/// The cache of a model, without pages and slots.
cache::CacheSpec cache_spec(const model::ModelWeights& weights);
/// Whether a model has recurrent layers.
bool needs_states(const model::ModelWeights& weights);

/// Slots and pages for as many sequences of these groups as may run at once, if they were the
/// longest ones, as far as the budget has room. Slots get at most half of it, but kLeastSlots in
/// any case. If half of the budget leaves too little for the longest group, the group gets what it
/// needs.
cache::CacheSpec plan_batch_cache(const model::ModelWeights& weights,
                                  std::span<const GroupSpec> groups,
                                  int64_t max_num_seqs,
                                  int64_t budget_bytes);

/// All of the budget, for requests that are not known yet: slots for `max_num_seqs` sequences and
/// as many states again for the prefix cache, at most half of it; pages for the rest, but no more
/// than all sequences need that are `max_model_len` long.
cache::CacheSpec plan_serving_cache(const model::ModelWeights& weights,
                                    int64_t max_num_seqs,
                                    int64_t max_model_len,
                                    int64_t budget_bytes);

/// The limits of a scheduler over such a cache.
SchedulerLimits limits_of(const cache::CacheSpec& spec,
                          const model::ModelWeights& weights,
                          int64_t max_num_seqs);

}  // namespace lockstep::rollout
