// The reward "accuracy": 1 for a completion that gives the answer in the column `solution`.
// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/json.h"
#include "reward/builtin_rewards.h"
#include "reward/math_answer.h"

namespace lockstep::reward {
namespace {

/// The column `solution` as text. ms-swift takes text only; a JSON number counts as its text here,
/// because data sets often hold answers as numbers and nothing else can be meant.
std::string solution_of(const RewardInput& input) {
  const Json* column = nullptr;
  if (input.columns != nullptr && input.columns->is_object()) {
    const auto found = input.columns->find("solution");
    if (found != input.columns->end()) column = &*found;
  }
  if (column == nullptr)
    fail<FormatError>("bad-row", input.where,
                      "expected a column solution for the reward accuracy, got none");
  if (const auto number = number_text(*column)) return *number;
  if (!column->is_string())
    fail<FormatError>("bad-row", input.where,
                      "expected text in the column solution for the reward accuracy, got {}",
                      column->type_name());
  return column->get<std::string>();
}

class MathAccuracy final : public RewardFunction {
 public:
  std::string_view name() const override { return "accuracy"; }
  std::string_view class_name() const override { return "MathAccuracy"; }
  std::string_view needed_column() const override { return "solution"; }

  void check(const Json& columns, std::string_view where) const override {
    solution_of({.columns = &columns, .where = where});
  }

  std::vector<std::optional<double>> score(std::span<const RewardInput> inputs) const override {
    std::vector<std::optional<double>> scores;
    for (const RewardInput& input : inputs)
      scores.emplace_back(is_correct_answer(input.completion, solution_of(input)) ? 1.0 : 0.0);
    return scores;
  }
};

}  // namespace

std::unique_ptr<RewardFunction> make_math_accuracy() { return std::make_unique<MathAccuracy>(); }

}  // namespace lockstep::reward
