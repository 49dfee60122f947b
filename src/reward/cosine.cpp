// SPDX-License-Identifier: Apache-2.0
#include "reward/cosine.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "reward/accuracy.h"

namespace lockstep::reward {
namespace {

class CosineReward final : public RewardFunction {
 public:
  CosineReward(const Cosine& options, int64_t longest)
      : RewardFunction(Cosine::kName),
        options_(options),
        longest_(static_cast<double>(longest)),
        accuracy_(make_math_accuracy(Cosine::kName)) {}

  std::string_view needed_column() const override { return accuracy_->needed_column(); }
  void check(const Json& columns, std::string_view where) const override {
    accuracy_->check(columns, where);
  }
  bool can_read(const Json& columns) const override { return accuracy_->can_read(columns); }

  std::vector<std::optional<double>> judge(std::span<const RewardInput> inputs,
                                           const RunState& run,
                                           PlacedNotes& notes) const override {
    std::vector<std::optional<double>> scores = accuracy_->judge(inputs, run, notes);
    for (size_t i = 0; i < scores.size(); ++i) {
      const auto tokens = inputs[i].num_sampled();
      scores[i] = tokens ? std::optional(value(*scores[i] >= 1, *tokens)) : std::nullopt;
    }
    return scores;
  }

 private:
  double value(bool is_correct, int64_t length) const {
    const double at_zero = is_correct ? options_.cosine_min_len_value_correct
                                      : options_.cosine_min_len_value_wrong,
                 at_longest = is_correct ? options_.cosine_max_len_value_correct
                                         : options_.cosine_max_len_value_wrong,
                 held = std::min(static_cast<double>(length), longest_),
                 cosine = std::cos(held * std::numbers::pi / longest_);
    return at_zero - (at_zero - at_longest) * (1 - cosine) / 2;
  }

  Cosine options_;
  double longest_;
  std::unique_ptr<RewardFunction> accuracy_;
};

}  // namespace

std::unique_ptr<RewardFunction> Cosine::make(const RewardContext& context) const {
  return std::make_unique<CosineReward>(*this,
                                        cosine_max_len.value_or(context.max_completion_length));
}

}  // namespace lockstep::reward
