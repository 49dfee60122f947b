// Accuracy, for rewards that build on it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "reward/reward.h"

namespace lockstep::reward {

/// Accuracy under another reward's name, which its errors tell.
std::unique_ptr<RewardFunction> make_math_accuracy(const RewardName& name);

}  // namespace lockstep::reward
