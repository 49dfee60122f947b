// SPDX-License-Identifier: Apache-2.0
#include "grpo/early_stop.h"

#include "base/check.h"

namespace lockstep::grpo {

void check_evaluated(const char* flag, const RunOptions& run, const DataOptions& data) {
  if (data.val_dataset.empty() && data.split_dataset_ratio <= 0)
    fail<ConfigError>("bad-flag", flag,
                      "expected held-out rows whose evaluations are compared, got none (hint: "
                      "--val_dataset or --split_dataset_ratio)");
  if (run.evaluation() == Interval::kNo)
    fail<ConfigError>("bad-flag", flag,
                      "expected evaluations during the run, got none (hint: --eval_strategy steps "
                      "or epoch)");
}

void check_early_stop_options(const RunOptions& run, const DataOptions& data) {
  if (!run.early_stop_interval) {
    if (run.early_stopping_threshold != 0)
      fail<ConfigError>("bad-flag", "--early_stopping_threshold",
                        "expected --early_stop_interval with it, got {} alone",
                        run.early_stopping_threshold);
    return;
  }
  check_evaluated("--early_stop_interval", run, data);
}

EarlyStop::EarlyStop(const RunOptions& options, const std::string& metric, bool greater_is_better)
    : interval_(options.early_stop_interval),
      threshold_(options.early_stopping_threshold),
      metric_(metric),
      greater_is_better_(greater_is_better) {}

void EarlyStop::compare(double value) {
  if (!best_) {
    if (value == value) best_ = value;
    return;
  }
  const double gain = greater_is_better_ ? value - *best_ : *best_ - value;
  count_ = gain > threshold_ ? 0 : count_ + 1;
  if (gain > 0) best_ = value;
}

std::string EarlyStop::text() const {
  return fmt::format("{} has been no better than {:.6g}{} for {} evaluation{}", metric_,
                     best_.value_or(0),
                     threshold_ > 0 ? fmt::format(" by more than {:.6g}", threshold_) : "", count_,
                     count_ == 1 ? "" : "s");
}

Json EarlyStop::state() const {
  return {{"metric", metric_},
          {"greater_is_better", greater_is_better_},
          {"best", best_ ? Json(*best_) : Json()},
          {"count", count_}};
}

void EarlyStop::load_state(const Json& state) {
  const bool is_same = state.is_object() && state.value("metric", Json()) == Json(metric_) &&
                       state.value("greater_is_better", Json()) == Json(greater_is_better_);
  if (!is_same) return;
  if (const Json best = state.value("best", Json()); best.is_number()) best_ = best.get<double>();
  if (const Json count = state.value("count", Json()); count.is_number_integer())
    count_ = count.get<int64_t>();
}

}  // namespace lockstep::grpo
