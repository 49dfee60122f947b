// The reward "soft_overlong": a penalty that grows over the last tokens before the longest length.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "base/check.h"
#include "reward/builtin_rewards.h"

namespace lockstep::reward {
namespace {

/// min(-(length - (longest - cache)) / cache, 0), without a floor: -1 at the longest length, less
/// beyond it; no value where the length is not known. Units: tokens, the stop token included.
class SoftOverlong final : public RewardFunction {
 public:
  SoftOverlong(int64_t longest, int64_t cache) : free_length_(longest - cache), cache_(cache) {}
  std::string_view name() const override { return "soft_overlong"; }
  std::string_view class_name() const override { return "SoftOverlong"; }

  std::vector<std::optional<double>> score(std::span<const RewardInput> inputs) const override {
    std::vector<std::optional<double>> scores;
    for (const RewardInput& input : inputs) {
      scores.push_back(input.token_ids ? std::optional(penalty(std::ssize(*input.token_ids)))
                                       : std::nullopt);
    }
    return scores;
  }

 private:
  double penalty(int64_t length) const {
    const int64_t left = free_length_ - length;
    return std::min(static_cast<double>(left) / static_cast<double>(cache_), 0.0);
  }

  int64_t free_length_;
  int64_t cache_;
};

}  // namespace

std::unique_ptr<RewardFunction> make_soft_overlong(const RewardOptions& options,
                                                   int64_t max_completion_length) {
  if (!options.soft_cache_length)
    fail<ConfigError>("bad-config", "--soft_cache_length",
                      "expected a length for the reward soft_overlong, got none");
  const int64_t cache = *options.soft_cache_length;
  const int64_t longest = options.soft_max_length.value_or(max_completion_length);
  if (cache <= 0 || cache >= longest)
    fail<ConfigError>("bad-config", "--soft_cache_length",
                      "expected between 1 and soft_max_length - 1 ({}), got {}", longest - 1,
                      cache);
  return std::make_unique<SoftOverlong>(longest, cache);
}

}  // namespace lockstep::reward
