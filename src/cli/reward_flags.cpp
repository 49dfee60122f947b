// SPDX-License-Identifier: Apache-2.0
#include "cli/reward_flags.h"

#include <cstdlib>

namespace lockstep::cli {

void complete_reward_options(reward::RewardOptions& options) {
  std::string& key = options.external.reward_api_key;
  if (!key.empty()) return;
  if (const char* const named = std::getenv("LOCKSTEP_REWARD_API_KEY")) key = named;
}

}  // namespace lockstep::cli
