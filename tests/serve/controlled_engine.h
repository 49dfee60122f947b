// A sampler that does nothing until it is told to, for tests of the routes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "rollout/engine_service.h"

namespace lockstep::testing {

/// Weights that say which folder they came from.
struct NamedWeights : rollout::StagedWeights {
  explicit NamedWeights(std::string given) : name(std::move(given)) {}
  std::string name;
};

/// Writes down what is asked of it. Threads: any.
class ControlledEngine : public rollout::EngineService {
 public:
  void submit(rollout::Request request, rollout::RequestHandler handler) override {
    add("submit " + request.id);
    handler_ = std::move(handler);
  }
  /// Tells the last request's handler.
  void tell(rollout::RequestEvent event) { handler_(std::move(event)); }
  bool abort_request(std::string_view id) override {
    add("abort " + std::string(id));
    return id == "known" || id == "several-1";
  }
  int64_t abort_all() override {
    add("abort all");
    return 3;
  }
  void pause(rollout::PauseMode mode, bool clear_cache, std::function<void()> done) override {
    const char* const names[] = {"abort", "wait", "keep"};
    add(std::string("pause ") + names[static_cast<int>(mode)] + (clear_cache ? " clear" : ""));
    {
      const std::lock_guard lock(mutex_);
      is_paused_ = true;
      if (holds_pause) {
        paused_ = std::move(done);
        return;
      }
    }
    done();
  }
  void end_pause() { std::exchange(paused_, {})(); }
  void resume() override {
    add("resume");
    const std::lock_guard lock(mutex_);
    is_paused_ = false;
  }
  bool is_paused() const override {
    const std::lock_guard lock(mutex_);
    return is_paused_;
  }
  void swap_weights(std::unique_ptr<rollout::StagedWeights> weights,
                    std::string version,
                    std::function<void(std::exception_ptr)> done) override {
    add("swap " + dynamic_cast<NamedWeights&>(*weights).name + " as " + version);
    if (fails_swap) {
      done(std::make_exception_ptr(std::runtime_error("out of memory")));
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      version_ = std::move(version);
      if (holds_swap) {
        swapped_ = std::move(done);
        return;
      }
    }
    done(nullptr);
  }
  void end_swap() { std::exchange(swapped_, {})(nullptr); }
  std::string weight_version() const override {
    const std::lock_guard lock(mutex_);
    return version_;
  }
  void set_weight_version(std::string version) override {
    const std::lock_guard lock(mutex_);
    version_ = std::move(version);
  }
  void reset_prefix_cache() override { add("reset cache"); }
  rollout::EngineStats stats() const override { return current_stats; }
  const rollout::EngineFacts& facts() const override { return facts_; }
  bool is_alive() const override { return is_well; }

  std::vector<std::string> calls() const {
    const std::lock_guard lock(mutex_);
    return calls_;
  }
  void forget_calls() {
    const std::lock_guard lock(mutex_);
    calls_.clear();
  }

  // Set while nothing is asked.
  bool holds_pause = false, holds_swap = false, fails_swap = false, is_well = true;
  rollout::EngineStats current_stats;

 private:
  void add(std::string call) {
    const std::lock_guard lock(mutex_);
    calls_.push_back(std::move(call));
  }

  mutable std::mutex mutex_;
  std::vector<std::string> calls_;
  bool is_paused_ = false;
  std::string version_ = "default";
  rollout::RequestHandler handler_;
  std::function<void()> paused_;
  std::function<void(std::exception_ptr)> swapped_;
  rollout::EngineFacts facts_{
      .max_model_len = 100, .vocab_size = 50, .max_num_seqs = 4, .dtype = "float32"};
};

}  // namespace lockstep::testing
