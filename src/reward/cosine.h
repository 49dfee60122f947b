// The reward "cosine": short right answers and long wrong ones are worth more.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "base/options.h"
#include "reward/reward.h"
#include "reward/reward_context.h"

namespace lockstep::reward {

/// From the value for length 0 to that for the longest length L along half a cosine:
///
///   at_zero - (at_zero - at_longest) (1 - cos(pi min(length, L) / L)) / 2
///
/// with the pair of values for a right answer (as "accuracy" judges it) or for a wrong one. No
/// value where the length is not known.
///
/// Units: tokens, the stop token included. Source: arXiv:2502.03373. ms-swift does not hold the
/// length at L, behind which the curve turns back (docs/differences.md).
struct Cosine {
  static constexpr RewardName kName{"cosine", "CosineReward"};
  double cosine_min_len_value_wrong = -0.5;
  double cosine_max_len_value_wrong = 0.0;
  double cosine_min_len_value_correct = 1.0;
  double cosine_max_len_value_correct = 0.5;
  /// Unset: the longest completion.
  std::optional<int64_t> cosine_max_len;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("cosine_min_len_value_wrong", cosine_min_len_value_wrong,
          "cosine: value of a wrong answer of no length.");
    visit("cosine_max_len_value_wrong", cosine_max_len_value_wrong,
          "cosine: value of a wrong answer of the longest length.");
    visit("cosine_min_len_value_correct", cosine_min_len_value_correct,
          "cosine: value of a right answer of no length.");
    visit("cosine_max_len_value_correct", cosine_max_len_value_correct,
          "cosine: value of a right answer of the longest length.");
    visit("cosine_max_len", cosine_max_len,
          "cosine: the longest length; unset: max_completion_length.", Range::at_least(1));
  }
  std::unique_ptr<RewardFunction> make(const RewardContext& context) const;
};

}  // namespace lockstep::reward
