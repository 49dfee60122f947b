// The registry of built-in rewards.
// SPDX-License-Identifier: Apache-2.0
#include "reward/reward.h"

#include <algorithm>

#include "base/check.h"
#include "reward/builtin_rewards.h"

namespace lockstep::reward {

void RewardFunction::check(const Json&, std::string_view) const {}
bool RewardFunction::can_read(const Json&) const { return true; }

void RewardOptions::validate() const {
  if (reward_funcs.empty())
    fail<ConfigError>("missing-flag", "--reward_funcs", "expected at least one reward, got none");
  for (auto name = reward_funcs.begin(); name != reward_funcs.end(); ++name)
    if (std::find(reward_funcs.begin(), name, *name) != name)
      fail<ConfigError>("bad-flag", "--reward_funcs", "expected each reward once, got {} twice",
                        *name);
  if (!reward_weights.empty() && reward_weights.size() != reward_funcs.size())
    fail<ConfigError>("bad-flag", "--reward_weights", "expected {} weights, one a reward, got {}",
                      reward_funcs.size(), reward_weights.size());
}

std::unique_ptr<RewardFunction> make_reward(std::string_view name,
                                            const RewardOptions& options,
                                            int64_t max_completion_length) {
  if (name == "accuracy") return make_math_accuracy();
  if (name == "format") return make_format();
  if (name == "soft_overlong") return make_soft_overlong(options, max_completion_length);
  fail<ConfigError>("unknown-reward", "--reward_funcs",
                    "expected accuracy, format or soft_overlong, got {}", name);
}

}  // namespace lockstep::reward
