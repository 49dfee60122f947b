// The reward of a completion that an environment has given while it answered the model.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "reward/reward.h"

namespace lockstep::reward {

/// RewardInput::environment_reward, under ms-swift's name "gym_reward". None where an environment
/// has failed.
std::unique_ptr<RewardFunction> make_environment_reward();

}  // namespace lockstep::reward
