// How many tokens of prompts a step may compute without holding up those who wait for their next
// token, learned while the sampler runs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace lockstep::rollout {

/// Steps that only decode tell how long a step should take. From each step that computes prompts as
/// well, the next one learns whether to take more of them or fewer: what a token costs grows with
/// its place in the prompt, so no fixed number would do. What a request returns does not depend on
/// it. Not thread-safe.
class PrefillPace {
 public:
  /// A step is to take at most `stretch` times as long as it takes without prompts.
  explicit PrefillPace(double stretch) : stretch_(stretch) {}
  /// Adds a step that took `seconds`.
  void add(int64_t prefilled, int64_t decoded, double seconds);
  /// How many tokens of prompts the next step may compute, where about as many sequences decode as
  /// in the last one. Where many requests wait for their first token beside them, nothing is held
  /// back: all of them together wait longer for it than those others for their next one.
  int64_t tokens(int64_t decoding, int64_t waiting_for_first) const {
    return waiting_for_first * kMany >= decoding ? kMostTokens : static_cast<int64_t>(tokens_);
  }

  static constexpr int64_t kLeastTokens = 4, kMostTokens = 1 << 20;
  /// So many sequences that decode count as one request that waits.
  static constexpr int64_t kMany = 4;

 private:
  double decode_seconds(int64_t decoded) const;

  double stretch_;
  double tokens_ = 32;
  /// Sums over steps that only decode, in which older ones weigh less: of 1, n, t, n n, n t.
  double count_ = 0, sequences_ = 0, seconds_ = 0, sequences_squared_ = 0, products_ = 0;
};

}  // namespace lockstep::rollout
