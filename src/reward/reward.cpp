// The registry of built-in rewards.
// SPDX-License-Identifier: Apache-2.0
#include "reward/reward.h"

#include "base/check.h"
#include "reward/builtin_rewards.h"

namespace lockstep::reward {

void RewardFunction::check(const Json&, std::string_view) const {}

std::unique_ptr<RewardFunction> make_reward(std::string_view name, const RewardOptions& options) {
  if (name == "accuracy") return make_math_accuracy();
  if (name == "format") return make_format();
  if (name == "soft_overlong") return make_soft_overlong(options);
  fail<ConfigError>("unknown-reward", "--reward_funcs",
                    "expected accuracy, format or soft_overlong, got {}", name);
}

}  // namespace lockstep::reward
