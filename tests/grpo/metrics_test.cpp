// SPDX-License-Identifier: Apache-2.0
#include "grpo/metrics.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "base/json.h"

namespace lockstep::grpo {
namespace {

TEST(Metrics, AreMeansExtremesAndLastValues) {
  Metrics metrics;
  metrics.add("mean", 1);
  metrics.add("mean", 4, 2);
  metrics.add_max("max", -3);
  metrics.add_max("max", -5);
  metrics.add_min("min", 2);
  metrics.add_min("min", 1);
  metrics.replace("rate", 1);
  metrics.replace("rate", 2);
  const Json values = metrics.values();
  EXPECT_DOUBLE_EQ(values["mean"].get<double>(), 3);
  EXPECT_DOUBLE_EQ(values["max"].get<double>(), -3);
  EXPECT_DOUBLE_EQ(values["min"].get<double>(), 1);
  EXPECT_DOUBLE_EQ(values["rate"].get<double>(), 2);
  EXPECT_FALSE(values.contains("other"));
}

TEST(Metrics, StateRestoresHalfAnInterval) {
  Metrics metrics, restored;
  metrics.add("mean", 0.1);
  metrics.add_max("max", 7);
  restored.load_state(parse_json(dump_json(metrics.state()), "state"));
  for (Metrics* each : {&metrics, &restored}) {
    each->add("mean", 0.3);
    each->add_max("max", 6);
  }
  EXPECT_EQ(dump_json(metrics.values()), dump_json(restored.values()));
}

/// A difference from what is no number, which a run that warns goes on with.
TEST(Metrics, StateKeepsWhatIsNotFinite) {
  Metrics metrics, restored;
  metrics.add_max("max", std::numeric_limits<double>::infinity());
  metrics.add("mean", std::nan(""));
  restored.load_state(parse_json(dump_json(metrics.state()), "state"));
  restored.add_max("max", 1);
  const Json values = restored.values();
  EXPECT_EQ(values["max"].get<double>(), std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(values["mean"].get<double>()));
}

TEST(Metrics, DurationsReadLikeAClock) {
  EXPECT_EQ(duration_text(5), "5s");
  EXPECT_EQ(duration_text(0.9), "1s");
  EXPECT_EQ(duration_text(59.6), "1m 0s");
  EXPECT_EQ(duration_text(65), "1m 5s");
  EXPECT_EQ(duration_text(3723), "1h 2m 3s");
}

}  // namespace
}  // namespace lockstep::grpo
