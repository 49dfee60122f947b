// The reward "accuracy": 1 for a completion that gives the answer in the column `solution`.
// SPDX-License-Identifier: Apache-2.0
#include "reward/accuracy.h"

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/json.h"
#include "reward/builtin_rewards.h"
#include "reward/math_answer.h"

namespace lockstep::reward {
namespace {

/// The column `solution`: text, a number or a boolean. ms-swift takes text only; a JSON number
/// counts, too, with all its digits, and true and false as words, because data sets often hold
/// answers so and nothing else can be meant.
const Json& solution_column(const Json* columns, std::string_view reward, std::string_view where) {
  const Json* column = nullptr;
  if (columns != nullptr && columns->is_object()) {
    const auto found = columns->find("solution");
    if (found != columns->end()) column = &*found;
  }
  if (column == nullptr)
    fail<FormatError>("bad-row", where, "expected a column solution for the reward {}, got none",
                      reward);
  if (!column->is_string() && !column->is_boolean() && !number_text(*column))
    fail<FormatError>("bad-row", where,
                      "expected text or a number in the column solution for the reward {}, got {}",
                      reward, column->type_name());
  return *column;
}

Solution solution_of(const Json* columns, std::string_view reward, std::string_view where) {
  const Json& column = solution_column(columns, reward, where);
  if (const auto number = number_text(column)) return Solution::of_number(*number);
  if (column.is_boolean()) return Solution(column == true ? "true" : "false");
  return Solution(column.get_ref<const std::string&>());
}

class MathAccuracy final : public RewardFunction {
 public:
  using RewardFunction::RewardFunction;
  std::string_view needed_column() const override { return "solution"; }

  void check(const Json& columns, std::string_view where) const override {
    solution_column(&columns, name(), where);
  }
  bool can_read(const Json& columns) const override {
    return solution_of(&columns, name(), "").is_readable();
  }

  std::vector<std::optional<double>> judge(std::span<const RewardInput> inputs,
                                           const RunState&,
                                           PlacedNotes&) const override {
    std::vector<std::optional<double>> scores;
    // The completions of a row stand behind one another.
    std::optional<Solution> solution;
    const Json* columns = nullptr;
    for (const RewardInput& input : inputs) {
      if (!solution || input.columns != columns)
        solution = solution_of(input.columns, name(), input.where);
      columns = input.columns;
      scores.emplace_back(solution->is_met_by(input.completion) ? 1.0 : 0.0);
    }
    return scores;
  }
};

}  // namespace

std::unique_ptr<RewardFunction> make_math_accuracy(const RewardName& name) {
  return std::make_unique<MathAccuracy>(name);
}

std::unique_ptr<RewardFunction> Accuracy::make(const RewardContext&) const {
  return make_math_accuracy(kName);
}

}  // namespace lockstep::reward
