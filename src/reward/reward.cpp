// SPDX-License-Identifier: Apache-2.0
#include "reward/reward.h"

#include <nlohmann/json.hpp>

namespace lockstep::reward {

std::optional<int64_t> RewardInput::num_sampled() const {
  if (turn_ids) {
    int64_t tokens = 0;
    for (const auto& turn : *turn_ids) tokens += std::ssize(turn);
    return tokens;
  }
  return token_ids ? std::optional(std::ssize(*token_ids)) : std::nullopt;
}

void RewardFunction::check(const Json&, std::string_view) const {}
bool RewardFunction::can_read(const Json&) const { return true; }

std::vector<std::optional<double>> RewardFunction::score(std::span<const RewardInput> inputs,
                                                         const RunState& run) const {
  PlacedNotes notes;
  return judge(inputs, run, notes);
}

std::vector<std::optional<double>> CompletionReward::judge(std::span<const RewardInput> inputs,
                                                           const RunState&,
                                                           PlacedNotes&) const {
  std::vector<std::optional<double>> scores;
  for (const RewardInput& input : inputs) scores.push_back(score_one(input));
  return scores;
}

}  // namespace lockstep::reward
