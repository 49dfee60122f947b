// A reward in Python.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "reward/external_options.h"
#include "reward/plugin_host.h"
#include "reward/reward.h"

namespace lockstep::reward {

/// The reward as one of a run's: called for a group of completions at a time, whole groups alone,
/// in order. A call that fails leaves its group without values.
std::unique_ptr<RewardFunction> make_plugin_reward(std::shared_ptr<PluginHost> host,
                                                   const PluginReward& reward,
                                                   const ExternalOptions& options);

}  // namespace lockstep::reward
