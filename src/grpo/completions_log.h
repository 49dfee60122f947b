// Writes a round of sampling for completions.jsonl and for the terminal.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/json.h"
#include "grpo/rewarded_groups.h"
#include "reward/rewarder.h"

namespace lockstep::grpo {

/// The round as a line of completions.jsonl: a list for each column, one entry a completion. With
/// `token_ids` and `finish_reason` (named as infer names them) it can be scored and replayed.
Json completions_line(const RewardedGroups& round, const reward::Rewarder& rewarder, int64_t step);

/// A completion for a person at a terminal, in several lines: rewards, length, the end of the
/// question, and the answer.
std::string shown_completion(const RewardedGroups& round,
                             const reward::Rewarder& rewarder,
                             size_t completion);

}  // namespace lockstep::grpo
