// What completions.jsonl says about a round of sampling.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/json.h"
#include "grpo/advantages.h"
#include "grpo/rewarder.h"

namespace lockstep::grpo {

/// A round of sampling and what became of it.
struct RewardedGroups {
  SampledGroups groups;
  RewardValues values;
  Advantages advantages;
};

/// The round as a line of completions.jsonl: a list for each column, one entry a completion.
Json completions_line(const RewardedGroups& round, const Rewarder& rewarder, int64_t step);

}  // namespace lockstep::grpo
