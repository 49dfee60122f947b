// SPDX-License-Identifier: Apache-2.0
#include "rollout/prefill_pace.h"

#include <algorithm>

namespace lockstep::rollout {
namespace {

/// What a step still weighs after the next one: about fifty steps count.
constexpr double kKept = 0.98;
/// By how much the number of tokens changes at most from one step to the next.
constexpr double kMostGrowth = 1.3, kMostShrink = 0.5;

}  // namespace

/// About how long a step with so many sequences takes; 0 if that is not known.
double PrefillPace::decode_seconds(int64_t decoded) const {
  if (count_ == 0) return 0;
  const double mean_sequences = sequences_ / count_, mean_seconds = seconds_ / count_;
  const double spread = sequences_squared_ / count_ - mean_sequences * mean_sequences;
  const double slope = products_ / count_ - mean_sequences * mean_seconds;
  // Steps of one size, or noise, give no line.
  if (spread < 0.01 * mean_sequences * mean_sequences || slope <= 0) return mean_seconds;
  const double line =
      mean_seconds + slope / spread * (static_cast<double>(decoded) - mean_sequences);
  return std::max(line, mean_seconds / 4);
}

void PrefillPace::add(int64_t prefilled, int64_t decoded, double seconds) {
  if (!decoded) return;
  if (!prefilled) {
    const auto n = static_cast<double>(decoded);
    for (double* sum : {&count_, &sequences_, &seconds_, &sequences_squared_, &products_})
      *sum *= kKept;
    count_ += 1;
    sequences_ += n;
    seconds_ += seconds;
    sequences_squared_ += n * n;
    products_ += n * seconds;
    return;
  }
  const double alone = decode_seconds(decoded);
  if (alone == 0) return;
  // What the prompts' tokens took, and what they may take.
  const double took = std::max(seconds - alone, 1e-9), allowed = (stretch_ - 1) * alone;
  const double change = std::clamp(allowed / took, kMostShrink, kMostGrowth);
  const auto used = static_cast<double>(prefilled);
  // The end of a prompt is shorter than what was allowed, and says nothing against that.
  tokens_ = change > 1 ? std::max(tokens_, used * change) : std::min(tokens_, used * change);
  tokens_ =
      std::clamp(tokens_, static_cast<double>(kLeastTokens), static_cast<double>(kMostTokens));
}

}  // namespace lockstep::rollout
