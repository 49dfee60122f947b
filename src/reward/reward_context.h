// What a run tells each of its rewards when it is made.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/json_fwd.h"

namespace lockstep::reward {

class RewardFunction;

struct RewardContext {
  /// The longest completion, in tokens.
  int64_t max_completion_length = 512;
  /// All of the run's options, which plugins get; null: none.
  const Json* args = nullptr;
  /// Makes a reward of a reward model's checkpoint; unset where no model runs.
  std::function<std::unique_ptr<RewardFunction>(const std::string& directory)> load_model;
};

}  // namespace lockstep::reward
