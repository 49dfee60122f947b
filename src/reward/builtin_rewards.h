// The built-in rewards. A new one is a struct beside its reward, as in cosine.h, and a line in
// BuiltinRewards.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <tuple>

#include "reward/cosine.h"
#include "reward/repetition.h"
#include "reward/reward.h"
#include "reward/reward_context.h"
#include "reward/soft_overlong.h"

namespace lockstep::reward {

/// A reward without flags.
struct NoRewardOptions {
  template <class Visitor>
  void for_each_field(Visitor&&) {}
};

/// 1 where the completion's answer equals the column `solution`, else 0 (accuracy.cpp).
struct Accuracy : NoRewardOptions {
  static constexpr RewardName kName{"accuracy", "MathAccuracy"};
  std::unique_ptr<RewardFunction> make(const RewardContext& context) const;
};

/// 1 for <think>…</think><answer>…</answer> and nothing around it, else 0 (format.cpp).
struct Format : NoRewardOptions {
  static constexpr RewardName kName{"format", "Format"};
  std::unique_ptr<RewardFunction> make(const RewardContext& context) const;
};

/// 1 for <think>…</think>Action:…Action Input:…, else 0 (format.cpp).
struct ReactFormat : NoRewardOptions {
  static constexpr RewardName kName{"react_format", "ReActFormat"};
  std::unique_ptr<RewardFunction> make(const RewardContext& context) const;
};

/// 1 where the last Action: and Action Input: of the completion are those of the column `solution`,
/// else 0: the same action; inputs that are equal JSON objects, or texts that are alike
/// (toolbench.cpp).
struct Toolbench : NoRewardOptions {
  static constexpr RewardName kName{"toolbench", "ReactORM"};
  std::unique_ptr<RewardFunction> make(const RewardContext& context) const;
};

/// Every built-in reward: its names, its flags, and how it is made.
using BuiltinRewards =
    std::tuple<Accuracy, Format, ReactFormat, Cosine, Repetition, SoftOverlong, Toolbench>;

}  // namespace lockstep::reward
