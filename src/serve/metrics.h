// What /metrics tells: counters of the sampler and times of requests, in Prometheus' text format.
// Names are vLLM's where it has them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rollout/engine_service.h"

namespace lockstep::serve {

/// How often values fell under each bound. Threads: any.
class Histogram {
 public:
  /// `bounds` ascend; values above the last are counted too.
  explicit Histogram(std::span<const double> bounds);
  void observe(double value);
  /// Appends its lines; `labels` are those of every line: `a="b",c="d"`.
  void append_to(std::string& out, std::string_view name, std::string_view labels) const;

 private:
  std::vector<double> bounds_;
  std::vector<std::atomic<int64_t>> counts_;
  /// In nanoseconds, if values are seconds: sums of doubles would need a lock.
  std::atomic<int64_t> sum_nanos_{0};
};

/// Times and ends of requests since the start. Threads: any.
class ServerMetrics {
 public:
  ServerMetrics();

  Histogram first_token, between_tokens, end_to_end;
  /// Counts a completion by why it ended.
  void count_end(rollout::SampleEnd end) { ++ends_[static_cast<size_t>(end)]; }
  void count_failed() { ++failed_; }
  /// How long a step of an update of the weights took: "init", "start", "update", "finish",
  /// "shutdown".
  void observe_weight_operation(const std::string& operation, double seconds);

  /// What the moment adds to what was counted.
  struct Moment {
    rollout::EngineStats engine;
    std::string weight_version;
    bool is_paused = false;
    int64_t connections = 0;
  };
  /// The whole text; every line has the label model_name.
  std::string text(const std::string& model_name, const Moment& moment) const;

 private:
  std::array<std::atomic<int64_t>, 3> ends_{};
  std::atomic<int64_t> failed_{0};
  /// Guards what follows.
  mutable std::mutex mutex_;
  std::map<std::string, Histogram> weight_operations_;
};

/// A sampler that is timed: what goes through submit() is measured on its way back, whichever route
/// it came from.
class MeteredEngine final : public rollout::EngineService {
 public:
  /// Both must outlive it, and every request in work.
  MeteredEngine(rollout::EngineService& engine, ServerMetrics& metrics)
      : engine_(engine), metrics_(metrics) {}

  void submit(rollout::Request request, rollout::RequestHandler handler) override;
  bool abort_request(std::string_view id) override { return engine_.abort_request(id); }
  int64_t abort_all() override { return engine_.abort_all(); }
  void pause(rollout::PauseMode mode, bool clear_cache, std::function<void()> done) override {
    engine_.pause(mode, clear_cache, std::move(done));
  }
  void resume() override { engine_.resume(); }
  bool is_paused() const override { return engine_.is_paused(); }
  void swap_weights(std::unique_ptr<rollout::StagedWeights> weights,
                    std::string version,
                    std::function<void(std::exception_ptr)> done) override {
    engine_.swap_weights(std::move(weights), std::move(version), std::move(done));
  }
  std::string weight_version() const override { return engine_.weight_version(); }
  void set_weight_version(std::string version) override {
    engine_.set_weight_version(std::move(version));
  }
  void reset_prefix_cache() override { engine_.reset_prefix_cache(); }
  rollout::EngineStats stats() const override { return engine_.stats(); }
  const rollout::EngineFacts& facts() const override { return engine_.facts(); }
  bool is_alive() const override { return engine_.is_alive(); }
  bool has_weights() const override { return engine_.has_weights(); }

 private:
  rollout::EngineService& engine_;
  ServerMetrics& metrics_;
};

}  // namespace lockstep::serve
