// SPDX-License-Identifier: Apache-2.0
#include "rollout/step_cost.h"

#include <algorithm>

namespace lockstep::rollout {
namespace {

/// What a step still weighs after the next one: about a hundred steps count.
constexpr double kKept = 0.99;
/// Before a line can be drawn, the weights' reading is taken to last as long as so many tokens.
constexpr double kBaseTokens = 16;

}  // namespace

void StepCost::add(int64_t tokens, double seconds) {
  const auto n = static_cast<double>(tokens);
  for (double* sum : {&count_, &tokens_, &seconds_, &tokens_squared_, &products_}) *sum *= kKept;
  count_ += 1;
  tokens_ += n;
  seconds_ += seconds;
  tokens_squared_ += n * n;
  products_ += n * seconds;
}

int64_t StepCost::prompt_tokens(int64_t decoded, double stretch) const {
  const double spread = count_ * tokens_squared_ - tokens_ * tokens_;
  const double slope = count_ * products_ - tokens_ * seconds_;
  double base_tokens = kBaseTokens;
  // Steps of one size, or noise, give no line.
  if (spread > 1e-3 * tokens_squared_ * count_ && slope > 0) {
    const double per_token = slope / spread;
    base_tokens = std::max(0.0, (seconds_ - per_token * tokens_) / count_ / per_token);
  }
  const double tokens = (stretch - 1) * (base_tokens + static_cast<double>(decoded));
  return std::max(kLeastTokens, static_cast<int64_t>(std::min(tokens, 1e9)));
}

}  // namespace lockstep::rollout
