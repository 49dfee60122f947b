// Warns once where a run learns nothing from its first generation batches, and says why.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "grpo/rewarded_groups.h"
#include "reward/rewarder.h"

namespace lockstep::grpo {

/// Looks at the first generation batches of a run, or of a run that is resumed. Not thread-safe.
class RewardWatch {
 public:
  /// After how many batches it warns.
  static constexpr int64_t kBatches = 3;

  /// `rewarder` must outlive it.
  explicit RewardWatch(const reward::Rewarder& rewarder);

  /// Takes a batch with its advantages in. Returns what to warn of, when the rewards in each group
  /// of the first kBatches were equal: likely reasons, judged from these batches, each with an
  /// example. Unset otherwise, and ever after.
  std::optional<std::string> add(const RewardedGroups& round);

 private:
  /// What a reward function has said so far.
  struct Function {
    int64_t values = 0, missing = 0;
    /// Rows of which it can make nothing.
    int64_t unread = 0;
    double least = 0, most = 0;
  };
  std::vector<std::string> reasons() const;
  std::string reason_of(size_t function) const;

  const reward::Rewarder* rewarder_;
  std::vector<Function> functions_;
  int64_t batches_ = 0, prompts_ = 0, completions_ = 0, truncated_ = 0;
  bool is_over_ = false;
  /// The end of one completion, and the solution of its row.
  std::string completion_, solution_;
};

}  // namespace lockstep::grpo
