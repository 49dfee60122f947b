// Which rewards a run has, with the flags of each.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "reward/builtin_rewards.h"
#include "reward/external_options.h"
#include "reward/judge.h"
#include "reward/plugin_options.h"
#include "reward/reward.h"

namespace lockstep::reward {

/// Which rewards there are, and what they are told.
struct RewardOptions {
  std::vector<std::string> reward_funcs;
  std::vector<double> reward_weights;
  /// The flags of each built-in reward stand with it.
  BuiltinRewards builtin;
  ExternalOptions external;
  PluginOptions plugins;
  JudgeOptions judges;
  /// Whether an environment gives a reward, which is the last one; no flag of its own.
  bool has_environment = false;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit(
        "reward_funcs", reward_funcs,
        "Rewards: accuracy, format, react_format, cosine, repetition, soft_overlong, toolbench; or "
        "your own: "
        "[NAME=]program:COMMAND, which answers lines of JSON; [NAME=]http://…; a name of "
        "external_plugins; [NAME=]module:function or file.py:function in Python; math_verify, the "
        "Python package.");
    visit("reward_weights", reward_weights,
          "One weight a reward, then one a reward model, then one for the environment's reward; "
          "unset: "
          "ones.");
    std::apply([&](auto&... reward) { (reward.for_each_field(visit), ...); }, builtin);
    external.for_each_field(visit);
    plugins.for_each_field(visit);
    judges.for_each_field(visit);
  }
  /// How many rewards there are: each has a weight.
  size_t count() const {
    return reward_funcs.size() + judges.reward_model.size() + (has_environment ? 1 : 0);
  }
  /// Throws ConfigError naming the flag.
  void validate() const;
};

/// The names of the built-in rewards.
std::vector<std::string> builtin_names();

/// Makes a reward that is built in, a program or behind a URL. `known` are the names of others, for
/// errors. Throws ConfigError "unknown-reward" naming the
/// known ones, "bad-config", "bad-flag", "bad-url".
std::unique_ptr<RewardFunction> make_reward(std::string_view text,
                                            const RewardOptions& options,
                                            const RewardContext& context,
                                            const std::vector<std::string>& known = {});

}  // namespace lockstep::reward
