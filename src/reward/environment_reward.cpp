// SPDX-License-Identifier: Apache-2.0
#include "reward/environment_reward.h"

namespace lockstep::reward {
namespace {

class EnvironmentReward final : public CompletionReward {
 public:
  EnvironmentReward() : CompletionReward({"gym_reward", "gym_reward"}) {}
  std::optional<double> score_one(const RewardInput& input) const override {
    return input.environment_reward;
  }
  std::string_view why_missing() const override { return "their environment failed"; }
};

}  // namespace

std::unique_ptr<RewardFunction> make_environment_reward() {
  return std::make_unique<EnvironmentReward>();
}

}  // namespace lockstep::reward
