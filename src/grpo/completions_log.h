// What completions.jsonl and the terminal say about a round of sampling.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/json.h"
#include "grpo/advantages.h"
#include "grpo/group_sampler.h"
#include "reward/rewarder.h"

namespace lockstep::grpo {

/// A round of sampling and what became of it.
struct RewardedGroups {
  SampledGroups groups;
  std::vector<reward::Values> values;
  Advantages advantages;
};

/// The round as a line of completions.jsonl: a list for each column, one entry a completion. With
/// `token_ids` and `finish_reason` (named as infer names them) it can be scored and replayed.
Json completions_line(const RewardedGroups& round, const reward::Rewarder& rewarder, int64_t step);

/// A completion as a person sees it on a terminal: rewards, length, the end of the question and the
/// answer, over several lines.
std::string shown_completion(const RewardedGroups& round,
                             const reward::Rewarder& rewarder,
                             size_t completion);

}  // namespace lockstep::grpo
