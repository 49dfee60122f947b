// The sampler on a thread of its own: requests come from any thread, tokens go back by handlers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/options.h"
#include "model/weights.h"
#include "rollout/engine.h"  // EngineOptions
#include "rollout/engine_service.h"
#include "text/tokenizer.h"

namespace lockstep::rollout {

/// What a sampler that never stops has besides EngineOptions.
struct ServiceOptions {
  /// How many tokens one step computes at most.
  int64_t max_num_batched_tokens = 2048;
  /// Whether what was computed for a request is kept for others that begin alike.
  bool enable_prefix_caching = true;
  /// How many requests wait at most.
  int64_t max_queue = 1024;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("max_num_batched_tokens", max_num_batched_tokens,
          "Tokens that one step computes at most; longer prompts are cut.",
          Range::between(64, 1 << 20));
    visit("enable_prefix_caching", enable_prefix_caching,
          "Keeps what was computed for requests that begin like earlier ones.");
    visit("max_queue", max_queue, "Requests that wait at most; more are refused at once.",
          Range::between(1, 1 << 20));
  }
};

/// Weights of the model that is served, for swap_weights().
struct StagedModel : StagedWeights {
  std::shared_ptr<const model::ModelWeights> weights;
  /// Instead of `weights`: makes them, when the old ones are gone and their memory is free. If it
  /// throws, the sampler has no weights, and refuses all requests until others have come.
  std::function<std::shared_ptr<const model::ModelWeights>()> build;
};

/// Runs a Sampler. If a step fails as a whole, the requests that ran in it fail and the others go
/// on; after three such steps in a row it gives up and is not alive any more.
class EngineThread : public EngineService {
 public:
  struct Setup {
    std::shared_ptr<const model::ModelWeights> weights;
    EngineOptions engine;
    ServiceOptions service;
    /// For stop strings; null: requests with any are refused. It outlives the engine.
    const text::Tokenizer* tokenizer = nullptr;
    bool exact = true;
    std::string weight_version = "default";
  };
  /// Makes the caches and starts the thread. Throws ConfigError "cache-too-small" if not even one
  /// sequence of max_model_len has room.
  explicit EngineThread(Setup setup);
  /// Ends all requests as aborted and waits for the step that runs.
  ~EngineThread() override;

  void submit(Request request, RequestHandler handler) override;
  bool abort_request(std::string_view id) override;
  int64_t abort_all() override;
  void pause(PauseMode mode, bool clear_cache, std::function<void()> done) override;
  void resume() override;
  bool is_paused() const override;
  void swap_weights(std::unique_ptr<StagedWeights> weights,
                    std::string version,
                    std::function<void(std::exception_ptr)> done) override;
  std::string weight_version() const override;
  /// Those that sample now; null: there are none. Whoever has them keeps them, beyond a swap too.
  std::shared_ptr<const model::ModelWeights> weights() const;
  void set_weight_version(std::string version) override;
  void reset_prefix_cache() override;
  EngineStats stats() const override;
  const EngineFacts& facts() const override;
  bool is_alive() const override;
  bool has_weights() const override;

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

}  // namespace lockstep::rollout
