// What a run tells each of its rewards when it is made.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/json_fwd.h"

namespace lockstep::reward {

struct RewardContext {
  /// The longest completion, in tokens.
  int64_t max_completion_length = 512;
  /// All of the run's options, which plugins get; null: none.
  const Json* args = nullptr;
};

}  // namespace lockstep::reward
