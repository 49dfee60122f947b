// SPDX-License-Identifier: Apache-2.0
#include "grpo/early_stop.h"

#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "base/random.h"
#include "tests/support/expect_error.h"

namespace lockstep::grpo {
namespace {

RunOptions patience(int64_t interval, double threshold = 0) {
  RunOptions run;
  run.early_stop_interval = interval;
  run.early_stopping_threshold = threshold;
  return run;
}

/// After how many values it stops; 0: never.
size_t stops_after(const RunOptions& run, bool greater, const std::vector<double>& values) {
  EarlyStop stop(run, "eval_reward", greater);
  for (size_t i = 0; i < values.size(); ++i) {
    stop.compare(values[i]);
    if (stop.is_reached()) return i + 1;
  }
  return 0;
}

TEST(EarlyStop, CountsEvaluationsInARowThatAreNoBetter) {
  EXPECT_EQ(stops_after(patience(2), true, {1, 2, 2, 1}), 4u);
  EXPECT_EQ(stops_after(patience(2), true, {1, 2, 2, 3, 3, 3}), 6u);
  EXPECT_EQ(stops_after(patience(1), true, {1, 2, 3, 4}), 0u);
  EXPECT_EQ(stops_after(patience(1), false, {1, 2}), 2u);
  EXPECT_EQ(stops_after(patience(2), false, {3, 2, 1, 1, 1}), 5u);
  EXPECT_EQ(stops_after({}, true, {3, 2, 1, 0, -1, -2, -3}), 0u);
}

TEST(EarlyStop, ANaNIsNoImprovementAndNoBest) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(stops_after(patience(1), true, {nan, 1, nan}), 3u);
  EXPECT_EQ(stops_after(patience(2), true, {1, nan, 2, nan, nan}), 5u);
}

/// EarlyStoppingCallback.check_metric_value and Trainer._determine_best_metric, line by line.
size_t transformers_stops_after(int64_t patience,
                                double threshold,
                                bool greater,
                                const std::vector<double>& values) {
  std::optional<double> best;
  int64_t counter = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const auto is_better = [&](double a, double b) { return greater ? a > b : a < b; };
    if (!best || (is_better(values[i], *best) && std::fabs(values[i] - *best) > threshold))
      counter = 0;
    else
      ++counter;
    if (counter >= patience) return i + 1;
    if (is_better(values[i], best.value_or(greater ? -INFINITY : INFINITY))) best = values[i];
  }
  return 0;
}

TEST(EarlyStop, EqualsTransformers) {
  size_t stopped = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const RandomStream random("early stop", seed);
    const auto interval = static_cast<int64_t>(1 + random.below(0, 4));
    const double threshold = static_cast<double>(random.below(1, 3)) * 0.3;
    const bool greater = random.below(2, 2) == 0;
    const double trend = static_cast<double>(random.below(3, 3)) * (greater ? 0.5 : -0.5);
    std::vector<double> values;
    for (uint64_t i = 0; i < 8; ++i)
      values.push_back(static_cast<double>(random.below(100 + i, 8)) * 0.25 +
                       trend * static_cast<double>(i));
    const size_t expected = transformers_stops_after(interval, threshold, greater, values);
    EXPECT_EQ(stops_after(patience(interval, threshold), greater, values), expected) << seed;
    stopped += expected > 0;
  }
  EXPECT_GT(stopped, 50u);
  EXPECT_LT(stopped, 300u);
}

TEST(EarlyStop, GoesOnFromItsState) {
  const std::vector<double> values{1, 2, 2, 3, 3, 2, 3};
  for (size_t cut = 0; cut <= 6; ++cut) {
    EarlyStop before(patience(3), "eval_reward", true), after(patience(3), "eval_reward", true);
    for (size_t i = 0; i < cut; ++i) before.compare(values[i]);
    after.load_state(parse_json(dump_json(before.state()), "state"));
    for (size_t i = cut; i < 6; ++i) after.compare(values[i]);
    EXPECT_FALSE(after.is_reached()) << cut;
    after.compare(values[6]);
    EXPECT_TRUE(after.is_reached()) << cut;
  }
}

TEST(EarlyStop, AnotherMetricBeginsAnew) {
  EarlyStop before(patience(1), "eval_reward", true);
  before.compare(2);
  before.compare(1);
  ASSERT_TRUE(before.is_reached());
  for (const bool is_same : {true, false}) {
    EarlyStop metric(patience(1), is_same ? "eval_reward" : "eval_kl", true),
        direction(patience(1), "eval_reward", is_same);
    metric.load_state(before.state());
    direction.load_state(before.state());
    EXPECT_EQ(metric.is_reached(), is_same);
    EXPECT_EQ(direction.is_reached(), is_same);
  }
  EarlyStop more(patience(2), "eval_reward", true);
  more.load_state(before.state());
  EXPECT_FALSE(more.is_reached());
  more.load_state(Json());
  EXPECT_FALSE(more.is_reached());
}

TEST(EarlyStop, NeedsEvaluations) {
  DataOptions held_out;
  held_out.split_dataset_ratio = 0.1;
  check_early_stop_options(patience(1), held_out);
  check_early_stop_options({}, {});
  EXPECT_ERROR(check_early_stop_options(patience(1), {}), ConfigError, "bad-flag", "--val_dataset");
  RunOptions blind = patience(1);
  blind.eval_strategy = Interval::kNo;
  EXPECT_ERROR(check_early_stop_options(blind, held_out), ConfigError, "bad-flag",
               "--eval_strategy");
  RunOptions alone;
  alone.early_stopping_threshold = 0.1;
  EXPECT_ERROR(check_early_stop_options(alone, held_out), ConfigError, "bad-flag",
               "expected --early_stop_interval with it, got 0.1 alone");
}

}  // namespace
}  // namespace lockstep::grpo
