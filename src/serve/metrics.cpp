// SPDX-License-Identifier: Apache-2.0
#include "serve/metrics.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include <fmt/format.h>

namespace lockstep::serve {
namespace {

using Clock = std::chrono::steady_clock;

// Seconds. The bounds are vLLM's (vllm/v1/metrics/loggers.py, 0.11), with smaller ones in front of
// the gaps between tokens: small models on a CPU are quicker than its first.
constexpr double kFirstTokenBounds[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06,  0.08, 0.1,
                                        0.25,  0.5,   0.75, 1.0,  2.5,  5.0,   7.5,  10.0,
                                        20.0,  40.0,  80.0, 160., 640., 2560.0};
constexpr double kBetweenTokensBounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1,
                                           0.15,  0.2,    0.3,   0.4,  0.5,   0.75, 1.0,   2.5,
                                           5.0,   7.5,    10.0,  20.0, 40.0,  80.0};
constexpr double kEndToEndBounds[] = {0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,
                                      5.0,  10.0, 15.0, 20.0, 30.0,  40.0,  50.0,
                                      60.0, 120., 240., 480., 960.0, 1920., 7680.0};
constexpr double kWeightBounds[] = {0.01, 0.05, 0.1,  0.25, 0.5,  1.0,   2.5,
                                    5.0,  10.0, 30.0, 60.0, 120., 300.0, 600.0};

/// A value of a label, between quotation marks.
std::string label_value(std::string_view text) {
  std::string value;
  for (const char character : text) {
    if (character == '\\' || character == '"') value += '\\';
    if (character == '\n')
      value += "\\n";
    else
      value += character;
  }
  return value;
}

void append_help(std::string& out,
                 std::string_view name,
                 std::string_view type,
                 std::string_view help) {
  fmt::format_to(std::back_inserter(out), "# HELP {0} {1}\n# TYPE {0} {2}\n", name, help, type);
}

/// Times one request. Called by the sampler's thread alone, event by event.
class RequestTimer {
 public:
  RequestTimer(ServerMetrics& metrics, int64_t num_samples)
      : metrics_(metrics), start_(Clock::now()), last_(static_cast<size_t>(num_samples)) {}

  void on(const rollout::RequestEvent& event) {
    if (const auto* token = std::get_if<rollout::SampleToken>(&event)) on_token(token->sample);
    if (const auto* done = std::get_if<rollout::SampleDone>(&event)) metrics_.count_end(done->end);
    if (const auto* done = std::get_if<rollout::RequestDone>(&event)) {
      if (done->status == rollout::RequestDone::Status::kFailed) metrics_.count_failed();
      metrics_.end_to_end.observe(seconds_since(start_, Clock::now()));
    }
  }

 private:
  static double seconds_since(Clock::time_point start, Clock::time_point now) {
    return std::chrono::duration<double>(now - start).count();
  }
  void on_token(int64_t sample) {
    const auto now = Clock::now();
    if (!std::exchange(has_token_, true)) metrics_.first_token.observe(seconds_since(start_, now));
    auto& last = last_.at(static_cast<size_t>(sample));
    if (last != Clock::time_point()) metrics_.between_tokens.observe(seconds_since(last, now));
    last = now;
  }

  ServerMetrics& metrics_;
  Clock::time_point start_;
  bool has_token_ = false;
  /// When each sample got its last token.
  std::vector<Clock::time_point> last_;
};

}  // namespace

Histogram::Histogram(std::span<const double> bounds)
    : bounds_(bounds.begin(), bounds.end()), counts_(bounds.size() + 1) {}

void Histogram::observe(double value) {
  const auto bound = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  ++counts_[static_cast<size_t>(bound - bounds_.begin())];
  sum_nanos_ += static_cast<int64_t>(value * 1e9);
}

void Histogram::append_to(std::string& out, std::string_view name, std::string_view labels) const {
  const auto line = [&](std::string_view bound, int64_t count) {
    fmt::format_to(std::back_inserter(out), "{}_bucket{{{},le=\"{}\"}} {}\n", name, labels, bound,
                   count);
  };
  int64_t count = 0;
  for (size_t i = 0; i < bounds_.size(); ++i)
    line(fmt::format("{}", bounds_[i]), count += counts_[i]);
  line("+Inf", count += counts_.back());
  fmt::format_to(std::back_inserter(out), "{0}_count{{{1}}} {2}\n{0}_sum{{{1}}} {3}\n", name,
                 labels, count, static_cast<double>(sum_nanos_) * 1e-9);
}

ServerMetrics::ServerMetrics()
    : first_token(kFirstTokenBounds),
      between_tokens(kBetweenTokensBounds),
      end_to_end(kEndToEndBounds) {}

void ServerMetrics::observe_weight_operation(const std::string& operation, double seconds) {
  const std::lock_guard lock(mutex_);
  weight_operations_.try_emplace(operation, kWeightBounds).first->second.observe(seconds);
}

std::string ServerMetrics::text(const std::string& model_name, const Moment& moment) const {
  const rollout::EngineStats& engine = moment.engine;
  const std::string labels = fmt::format("model_name=\"{}\"", label_value(model_name));
  std::string out;
  const auto value = [&](std::string_view name, std::string_view type, std::string_view help,
                         auto number) {
    append_help(out, name, type, help);
    fmt::format_to(std::back_inserter(out), "{}{{{}}} {}\n", name, labels, number);
  };
  const double pages = static_cast<double>(std::max<int64_t>(engine.pages, 1));
  value("vllm:num_requests_running", "gauge", "Requests that are sampled.", engine.running);
  value("vllm:num_requests_waiting", "gauge", "Requests in the queue.", engine.waiting);
  value("vllm:kv_cache_usage_perc", "gauge", "Share of the cache's pages in use; 1 is all.",
        static_cast<double>(engine.pages_in_use) / pages);
  value("vllm:num_preemptions_total", "counter", "Requests put back to free pages.",
        engine.preemptions);
  value("vllm:prompt_tokens_total", "counter", "Tokens of prompts.", engine.prompt_tokens);
  value("vllm:generation_tokens_total", "counter", "Tokens sampled.", engine.generation_tokens);
  value("vllm:prefix_cache_queries_total", "counter",
        "Tokens of prompts that were looked for in the prefix cache.", engine.prefix_queries);
  value("vllm:prefix_cache_hits_total", "counter", "Those of them that were found.",
        engine.prefix_hits);
  value("lockstep:cache_pages", "gauge", "Pages of the cache.", engine.pages);
  value("lockstep:cache_pages_cached", "gauge", "Pages that only the prefix cache holds.",
        engine.pages_cached);
  value("lockstep:state_slots", "gauge", "Slots for recurrent states.", engine.slots);
  value("lockstep:state_slots_in_use", "gauge", "Those of them in use.", engine.slots_in_use);
  value("lockstep:is_paused", "gauge", "1 while sampling is paused.", moment.is_paused ? 1 : 0);
  value("lockstep:http_connections", "gauge", "Open connections.", moment.connections);
  append_help(out, "lockstep:weight_version_info", "gauge", "The weights that are served.");
  fmt::format_to(std::back_inserter(out), "lockstep:weight_version_info{{{},version=\"{}\"}} 1\n",
                 labels, label_value(moment.weight_version));
  append_help(out, "vllm:request_success_total", "counter", "Completions by why they ended.");
  constexpr std::string_view kEnds[] = {"stop", "length", "abort"};
  const auto ends = [&](std::string_view reason, int64_t count) {
    fmt::format_to(std::back_inserter(out),
                   "vllm:request_success_total{{{},finished_reason=\"{}\"}} {}\n", labels, reason,
                   count);
  };
  for (size_t i = 0; i < ends_.size(); ++i) ends(kEnds[i], ends_[i]);
  ends("error", failed_);
  const auto times = [&](const Histogram& histogram, std::string_view name, std::string_view help) {
    append_help(out, name, "histogram", help);
    histogram.append_to(out, name, labels);
  };
  times(first_token, "vllm:time_to_first_token_seconds", "From a request to its first token.");
  times(between_tokens, "vllm:inter_token_latency_seconds", "Between two tokens of a completion.");
  times(end_to_end, "vllm:e2e_request_latency_seconds", "From a request to its end.");
  constexpr std::string_view kWeights = "vllm:rl_weight_update_operation_duration_seconds";
  append_help(out, kWeights, "histogram", "Steps of updates of the weights.");
  const std::lock_guard lock(mutex_);
  for (const auto& [operation, histogram] : weight_operations_)
    histogram.append_to(out, kWeights, fmt::format("{},operation=\"{}\"", labels, operation));
  return out;
}

void MeteredEngine::submit(rollout::Request request, rollout::RequestHandler handler) {
  auto timer = std::make_shared<RequestTimer>(metrics_, request.num_samples);
  engine_.submit(std::move(request), [timer = std::move(timer),
                                      handler = std::move(handler)](rollout::RequestEvent&& event) {
    timer->on(event);
    handler(std::move(event));
  });
}

}  // namespace lockstep::serve
