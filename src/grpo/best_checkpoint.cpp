// SPDX-License-Identifier: Apache-2.0
#include "grpo/best_checkpoint.h"

#include <algorithm>

#include <fmt/ranges.h>

#include "base/check.h"

namespace lockstep::grpo {

void check_best_options(const RunOptions& run, const DataOptions& data) {
  const bool saves_the_best = run.save_strategy == SaveStrategy::kBest;
  if (!run.load_best_model_at_end && !saves_the_best) return;
  const char* flag = saves_the_best ? "--save_strategy" : "--load_best_model_at_end";
  if (data.val_dataset.empty() && data.split_dataset_ratio <= 0)
    fail<ConfigError>("bad-flag", flag,
                      "expected held-out rows to choose the best checkpoint by, got none (hint: "
                      "--val_dataset or --split_dataset_ratio)");
  const Interval evaluation = run.evaluation();
  if (saves_the_best && evaluation != Interval::kNo) return;
  const auto name = [](Interval interval) { return enum_names(interval)[size_t(interval)].name; };
  const auto save_name = [](SaveStrategy strategy) {
    return enum_names(strategy)[size_t(strategy)].name;
  };
  if (evaluation == Interval::kNo || save_name(run.save_strategy) != name(evaluation))
    fail<ConfigError>("bad-flag", flag,
                      "expected evaluations at the steps of checkpoints, got --save_strategy {} "
                      "and --eval_strategy {}",
                      save_name(run.save_strategy), name(evaluation));
  if (evaluation == Interval::kSteps && run.save_steps % run.evaluation_steps() != 0)
    fail<ConfigError>("bad-flag", flag,
                      "expected --save_steps to be a multiple of --eval_steps, got {} and {}",
                      run.save_steps, run.evaluation_steps());
}

BestCheckpoint::BestCheckpoint(const RunOptions& options, const std::string& standard)
    : metric_(options.metric_for_best_model.value_or(standard)) {
  if (!metric_.starts_with("eval_")) metric_ = "eval_" + metric_;
  greater_is_better_ = options.greater_is_better.value_or(!metric_.ends_with("loss"));
}

void BestCheckpoint::check_metric(std::span<const std::string> logged) const {
  if (std::find(logged.begin(), logged.end(), metric_) != logged.end()) return;
  fail<ConfigError>("bad-flag", "--metric_for_best_model",
                    "expected a metric of the evaluations, got '{}' (there are {})", metric_,
                    fmt::join(logged, ", "));
}

bool BestCheckpoint::is_better(double value) const {
  if (!step_) return value == value;
  return greater_is_better_ ? value > value_ : value < value_;
}

void BestCheckpoint::compare(int64_t step, double value) {
  if (!is_better(value)) return;
  step_ = step;
  value_ = value;
}

Json BestCheckpoint::state() const {
  return {{"metric", metric_},
          {"greater_is_better", greater_is_better_},
          {"step", step_ ? Json(*step_) : Json()},
          {"value", step_ ? Json(value_) : Json()}};
}

bool BestCheckpoint::load_state(const Json& state) {
  forget();
  const bool is_known = state.is_object() && state.value("step", Json()).is_number_integer() &&
                        state.value("value", Json()).is_number();
  if (!is_known) return true;
  if (state.value("metric", "") != metric_ ||
      state.value("greater_is_better", true) != greater_is_better_)
    return false;
  compare(state["step"].get<int64_t>(), state["value"].get<double>());
  return true;
}

}  // namespace lockstep::grpo
