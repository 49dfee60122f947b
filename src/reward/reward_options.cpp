// SPDX-License-Identifier: Apache-2.0
#include "reward/reward_options.h"

#include <algorithm>

#include <fmt/ranges.h>

#include "base/check.h"
#include "reward/external_reward.h"

namespace lockstep::reward {

void RewardOptions::validate() const {
  if (count() == 0)
    fail<ConfigError>("missing-flag", "--reward_funcs", "expected at least one reward, got none");
  for (auto name = reward_funcs.begin(); name != reward_funcs.end(); ++name)
    if (std::find(reward_funcs.begin(), name, *name) != name)
      fail<ConfigError>("bad-flag", "--reward_funcs", "expected each reward once, got {} twice",
                        *name);
  if (!reward_weights.empty() && reward_weights.size() != count())
    fail<ConfigError>("bad-flag", "--reward_weights", "expected {} weights, one a reward, got {}",
                      count(), reward_weights.size());
  judges.validate();
}

std::vector<std::string> builtin_names() {
  std::vector<std::string> names;
  std::apply([&](const auto&... reward) { (names.emplace_back(reward.kName.name), ...); },
             BuiltinRewards());
  return names;
}

std::unique_ptr<RewardFunction> make_reward(std::string_view text,
                                            const RewardOptions& options,
                                            const RewardContext& context,
                                            const std::vector<std::string>& known) {
  if (const auto spec = external_spec(text))
    return spec->kind == ExternalSpec::Kind::kUrl ? make_url_reward(*spec, options.external)
                                                  : make_program_reward(*spec, options.external);
  std::unique_ptr<RewardFunction> made;
  const auto visit = [&](const auto& reward) {
    if (!made && reward.kName.name == text) made = reward.make(context);
  };
  std::apply([&](const auto&... reward) { (visit(reward), ...); }, options.builtin);
  if (!made) {
    std::vector<std::string> names = builtin_names();
    names.insert(names.end(), known.begin(), known.end());
    fail<ConfigError>("unknown-reward", "--reward_funcs",
                      "expected one of {}, math_verify, program:COMMAND, http://… or "
                      "module:function, got {}",
                      fmt::join(names, ", "), text);
  }
  return made;
}

}  // namespace lockstep::reward
