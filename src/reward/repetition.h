// The reward "repetition": a penalty for saying the same words again.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "base/options.h"
#include "reward/reward.h"
#include "reward/reward_context.h"

namespace lockstep::reward {

/// repetition_max_penalty times the share of n-grams of words that have been said before; 0 for
/// fewer words than n. Words are parted by white space and compared in small letters.
///
/// Source: arXiv:2502.03373, as ms-swift counts.
struct Repetition {
  static constexpr RewardName kName{"repetition", "RepetitionPenalty"};
  int64_t repetition_n_grams = 3;
  double repetition_max_penalty = -1.0;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("repetition_n_grams", repetition_n_grams,
          "repetition: how many words in a row are counted as said again.", Range::at_least(1));
    visit("repetition_max_penalty", repetition_max_penalty,
          "repetition: the value of a text that only repeats itself.");
  }
  std::unique_ptr<RewardFunction> make(const RewardContext& context) const;
};

}  // namespace lockstep::reward
