// How long a step of the sampler takes, learned while it runs, so that long prompts are cut into
// pieces that do not hold up those who wait for their next token.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace lockstep::rollout {

/// A line through the steps of late: seconds = base + per_token * tokens. Reading the weights is
/// the base, computing a token the slope. What a request returns does not depend on it. Not
/// thread-safe.
class StepCost {
 public:
  /// Adds a step.
  void add(int64_t tokens, double seconds);
  /// How many tokens of prompts a step may compute beside `decoded` others without taking longer
  /// than `stretch` times what it takes without them; kLeastTokens at least.
  int64_t prompt_tokens(int64_t decoded, double stretch) const;

  static constexpr int64_t kLeastTokens = 16;

 private:
  /// Sums in which older steps weigh less: of 1, n, t, n n, n t.
  double count_ = 0, tokens_ = 0, seconds_ = 0, tokens_squared_ = 0, products_ = 0;
};

}  // namespace lockstep::rollout
