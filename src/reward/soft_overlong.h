// The reward "soft_overlong": a penalty that grows over the last tokens before the longest length.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "base/options.h"
#include "reward/reward.h"
#include "reward/reward_context.h"

namespace lockstep::reward {

/// max(-1, min((longest - cache - length) / cache, 0)); no value where the length is not known.
///
/// Units: tokens, the stop token included. Source: DAPO, arXiv:2503.14476, eq. 13. ms-swift has no
/// floor at -1 (docs/differences.md).
struct SoftOverlong {
  static constexpr RewardName kName{"soft_overlong", "SoftOverlong"};
  /// Unset: the longest completion.
  std::optional<int64_t> soft_max_length;
  std::optional<int64_t> soft_cache_length;
  bool soft_floor = true;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("soft_max_length", soft_max_length,
          "soft_overlong: length limit; unset: max_completion_length.", Range::at_least(1));
    visit("soft_cache_length", soft_cache_length,
          "soft_overlong: how many tokens before the limit the penalty begins.",
          Range::at_least(1));
    visit("soft_floor", soft_floor,
          "soft_overlong: the penalty ends at -1; false: it goes on growing behind the limit.");
  }
  /// Throws ConfigError "bad-config".
  std::unique_ptr<RewardFunction> make(const RewardContext& context) const;
};

}  // namespace lockstep::reward
