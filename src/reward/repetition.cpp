// SPDX-License-Identifier: Apache-2.0
#include "reward/repetition.h"

#include <algorithm>
#include <set>
#include <string>

#include "text/jinja/string.h"

namespace lockstep::reward {
namespace {

class RepetitionPenalty final : public CompletionReward {
 public:
  explicit RepetitionPenalty(const Repetition& options)
      : CompletionReward(Repetition::kName), options_(options) {}

  std::optional<double> score_one(const RewardInput& input) const override {
    const std::vector<std::string> words =
        text::jinja::split(text::jinja::to_lower(input.completion), std::nullopt, -1);
    const int64_t total = std::ssize(words) - options_.repetition_n_grams + 1;
    if (total < 1) return 0.0;
    std::set<std::span<const std::string>, LessWords> unique;
    for (int64_t i = 0; i < total; ++i)
      unique.insert(std::span(words).subspan(static_cast<size_t>(i),
                                             static_cast<size_t>(options_.repetition_n_grams)));
    const double share = static_cast<double>(unique.size()) / static_cast<double>(total);
    // Without a sign where nothing is repeated.
    return (1 - share) * options_.repetition_max_penalty + 0.0;
  }

 private:
  struct LessWords {
    bool operator()(std::span<const std::string> a, std::span<const std::string> b) const {
      return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end());
    }
  };

  Repetition options_;
};

}  // namespace

std::unique_ptr<RewardFunction> Repetition::make(const RewardContext&) const {
  return std::make_unique<RepetitionPenalty>(*this);
}

}  // namespace lockstep::reward
