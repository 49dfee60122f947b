// SPDX-License-Identifier: Apache-2.0
#include "reward/soft_overlong.h"

#include <algorithm>

#include "base/check.h"

namespace lockstep::reward {
namespace {

class LengthPenalty final : public CompletionReward {
 public:
  LengthPenalty(int64_t longest, int64_t cache, bool has_floor)
      : CompletionReward(SoftOverlong::kName),
        free_length_(longest - cache),
        cache_(cache),
        has_floor_(has_floor) {}

  std::optional<double> score_one(const RewardInput& input) const override {
    const auto tokens = input.num_sampled();
    if (!tokens) return std::nullopt;
    const int64_t left = free_length_ - *tokens;
    const double penalty = std::min(static_cast<double>(left) / static_cast<double>(cache_), 0.0);
    return has_floor_ ? std::max(penalty, -1.0) : penalty;
  }

 private:
  int64_t free_length_, cache_;
  bool has_floor_;
};

}  // namespace

std::unique_ptr<RewardFunction> SoftOverlong::make(const RewardContext& context) const {
  if (!soft_cache_length)
    fail<ConfigError>("bad-config", "--soft_cache_length",
                      "expected a length for the reward soft_overlong, got none");
  const int64_t cache = *soft_cache_length;
  const int64_t longest = soft_max_length.value_or(context.max_completion_length);
  if (cache <= 0 || cache >= longest)
    fail<ConfigError>("bad-config", "--soft_cache_length",
                      "expected between 1 and soft_max_length - 1 ({}), got {}", longest - 1,
                      cache);
  return std::make_unique<LengthPenalty>(longest, cache, soft_floor);
}

}  // namespace lockstep::reward
