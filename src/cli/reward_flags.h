// What rewards in other processes need of the program's environment.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "reward/reward_options.h"

namespace lockstep::cli {

/// Fills in what the flags leave to the environment: the key of rewards behind a URL, and where the
/// script lies that runs plugins.
void complete_reward_options(reward::RewardOptions& options);

}  // namespace lockstep::cli
