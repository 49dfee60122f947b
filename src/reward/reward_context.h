// What a run tells each of its rewards when it is made.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace lockstep::reward {

struct RewardContext {
  /// The longest completion, in tokens.
  int64_t max_completion_length = 512;
};

}  // namespace lockstep::reward
