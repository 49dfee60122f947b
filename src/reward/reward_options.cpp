// SPDX-License-Identifier: Apache-2.0
#include "reward/reward_options.h"

#include <algorithm>

#include "base/check.h"
#include "reward/external_reward.h"

namespace lockstep::reward {

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

std::unique_ptr<RewardFunction> make_reward(std::string_view text,
                                            const RewardOptions& options,
                                            const RewardContext& context) {
  if (const auto spec = external_spec(text))
    return spec->kind == ExternalSpec::Kind::kUrl ? make_url_reward(*spec, options.external)
                                                  : make_program_reward(*spec, options.external);
  std::unique_ptr<RewardFunction> made;
  std::string known;
  const auto visit = [&](const auto& reward) {
    if (!made && reward.kName.name == text) made = reward.make(context);
    known += (known.empty() ? "" : ", ") + std::string(reward.kName.name);
  };
  std::apply([&](const auto&... reward) { (visit(reward), ...); }, options.builtin);
  if (!made)
    fail<ConfigError>("unknown-reward", "--reward_funcs",
                      "expected one of {}, program:COMMAND or http://…, got {}", known, text);
  return made;
}

}  // namespace lockstep::reward
