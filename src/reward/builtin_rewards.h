// The built-in rewards, for the registry in reward.cpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "reward/reward.h"

namespace lockstep::reward {

/// ms-swift's "accuracy".
std::unique_ptr<RewardFunction> make_math_accuracy();
/// ms-swift's "format".
std::unique_ptr<RewardFunction> make_format();
/// ms-swift's "soft_overlong". Throws ConfigError "bad-config".
std::unique_ptr<RewardFunction> make_soft_overlong(const RewardOptions& options,
                                                   int64_t max_completion_length);

}  // namespace lockstep::reward
