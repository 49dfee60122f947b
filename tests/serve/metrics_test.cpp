// SPDX-License-Identifier: Apache-2.0
#include "serve/metrics.h"

#include <map>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/serve/controlled_engine.h"

namespace lockstep::serve {
namespace {

using lockstep::testing::ControlledEngine;
using ::testing::HasSubstr;

/// The values of a Prometheus text by name and labels. Fails the test for a line of another form,
/// and for a name without its type in front of it.
std::map<std::string, double> read_metrics(const std::string& text) {
  std::map<std::string, double> values;
  std::string type_of;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("# TYPE ")) {
      type_of = line.substr(7, line.find(' ', 7) - 7);
      continue;
    }
    if (line.starts_with("# HELP ")) continue;
    const size_t space = line.rfind(' ');
    EXPECT_EQ(line.rfind(type_of, 0), 0) << line << " has no type";
    EXPECT_EQ(values.count(line.substr(0, space)), 0) << line << " stands there twice";
    values[line.substr(0, space)] = std::stod(line.substr(space + 1));
  }
  return values;
}

TEST(Metrics, AHistogramCountsWhatIsAtMostItsBound) {
  constexpr double kBounds[] = {0.5, 1, 2.5};
  Histogram histogram(kBounds);
  for (const double value : {0.1, 0.5, 0.6, 2.5, 3.0, 100.0}) histogram.observe(value);
  std::string out;
  histogram.append_to(out, "h", "a=\"b\"");
  EXPECT_EQ(out,
            "h_bucket{a=\"b\",le=\"0.5\"} 2\nh_bucket{a=\"b\",le=\"1\"} 3\n"
            "h_bucket{a=\"b\",le=\"2.5\"} 4\nh_bucket{a=\"b\",le=\"+Inf\"} 6\n"
            "h_count{a=\"b\"} 6\nh_sum{a=\"b\"} 106.7\n");
}

TEST(Metrics, TheSamplersStateHasVllmsNames) {
  const ServerMetrics metrics;
  const auto values = read_metrics(metrics.text("m\"1\"", {.engine = {.running = 3,
                                                                      .waiting = 4,
                                                                      .pages = 8,
                                                                      .pages_in_use = 2,
                                                                      .prompt_tokens = 100,
                                                                      .generation_tokens = 200,
                                                                      .preemptions = 5,
                                                                      .prefix_queries = 60,
                                                                      .prefix_hits = 30},
                                                           .weight_version = "step-1",
                                                           .is_paused = true,
                                                           .connections = 7}));
  const std::string labels = R"({model_name="m\"1\""})";
  const std::pair<const char*, double> expected[] = {{"vllm:num_requests_running", 3},
                                                     {"vllm:num_requests_waiting", 4},
                                                     {"vllm:kv_cache_usage_perc", 0.25},
                                                     {"vllm:prompt_tokens_total", 100},
                                                     {"vllm:generation_tokens_total", 200},
                                                     {"vllm:num_preemptions_total", 5},
                                                     {"vllm:prefix_cache_queries_total", 60},
                                                     {"vllm:prefix_cache_hits_total", 30},
                                                     {"lockstep:is_paused", 1},
                                                     {"lockstep:http_connections", 7}};
  for (const auto& [name, value] : expected) {
    ASSERT_EQ(values.count(name + labels), 1) << name;
    EXPECT_EQ(values.at(name + labels), value) << name;
  }
  EXPECT_EQ(values.at(R"(lockstep:weight_version_info{model_name="m\"1\"",version="step-1"})"), 1);
}

TEST(Metrics, ARequestIsTimedOnItsWayBack) {
  ControlledEngine inner;
  ServerMetrics metrics;
  MeteredEngine engine(inner, metrics);
  int seen = 0;
  engine.submit({.id = "a", .prompt = {1}, .num_samples = 2},
                [&](rollout::RequestEvent&&) { ++seen; });
  inner.tell(rollout::PromptDone{});
  for (int i = 0; i < 3; ++i)
    for (int64_t sample = 0; sample < 2; ++sample) inner.tell(rollout::SampleToken{sample});
  inner.tell(rollout::SampleDone{0, rollout::SampleEnd::kStop});
  inner.tell(rollout::SampleDone{1, rollout::SampleEnd::kAborted});
  inner.tell(rollout::RequestDone{});
  engine.submit({.id = "b", .prompt = {1}}, [&](rollout::RequestEvent&&) { ++seen; });
  inner.tell(
      rollout::RequestDone{.status = rollout::RequestDone::Status::kFailed, .error = "broken"});
  EXPECT_EQ(seen, 11);
  metrics.observe_weight_operation("update", 2);
  const auto values = read_metrics(metrics.text("m", {}));
  const auto value = [&](const std::string& name) {
    return values.at(name + "{model_name=\"m\"}");
  };
  EXPECT_EQ(value("vllm:time_to_first_token_seconds_count"), 1);
  EXPECT_EQ(value("vllm:inter_token_latency_seconds_count"), 4);
  EXPECT_EQ(value("vllm:e2e_request_latency_seconds_count"), 2);
  const std::string ends = "vllm:request_success_total{model_name=\"m\",finished_reason=";
  EXPECT_EQ(values.at(ends + "\"stop\"}"), 1);
  EXPECT_EQ(values.at(ends + "\"length\"}"), 0);
  EXPECT_EQ(values.at(ends + "\"abort\"}"), 1);
  EXPECT_EQ(values.at(ends + "\"error\"}"), 1);
  EXPECT_EQ(values.at("vllm:rl_weight_update_operation_duration_seconds_bucket{model_name=\"m\","
                      "operation=\"update\",le=\"2.5\"}"),
            1);
}

}  // namespace
}  // namespace lockstep::serve
