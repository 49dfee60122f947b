// The sampler as its callers on other threads see it: requests in, events out, and what a trainer
// needs to change the weights. It needs no libtorch, so that a server is tested without a model.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "rollout/request.h"

namespace lockstep::rollout {

/// What becomes of running requests when the sampler is paused. The names are vLLM's.
enum class PauseMode : uint8_t {
  /// They end as aborted, with the tokens that they have.
  kAbort,
  /// They are finished first.
  kWait,
  /// They stand still and go on after resume(), possibly under other weights.
  kKeep,
};

/// Counters and states, for metrics. Counters begin with 0 when the sampler starts.
struct EngineStats {
  int64_t running = 0, waiting = 0;
  int64_t pages = 0, pages_in_use = 0, pages_cached = 0;
  int64_t slots = 0, slots_in_use = 0, slots_cached = 0;
  int64_t prompt_tokens = 0, generation_tokens = 0, preemptions = 0;
  /// Tokens of prompts that were looked for in the prefix cache, and those found.
  int64_t prefix_queries = 0, prefix_hits = 0;
};

/// Sizes and facts that do not change while it runs.
struct EngineFacts {
  /// The most tokens of a prompt with its completion.
  int64_t max_model_len = 0;
  int64_t vocab_size = 0;
  int64_t max_num_seqs = 0;
  bool is_exact = true;
  /// Whether any layer is a mixture of experts.
  bool has_experts = false;
  /// "float32" or "bfloat16".
  std::string dtype;
};

/// Weights that are ready to be swapped in. Made by any thread; the sampler takes them whole.
struct StagedWeights {
  virtual ~StagedWeights() = default;
};

/// A sampler that serves many requests at once. Threads: any may call anything.
class EngineService {
 public:
  virtual ~EngineService() = default;

  /// Takes a request in. Its events begin to come before or after this returns, and end with
  /// RequestDone. Throws RequestError and calls nothing then: 400 "prompt-too-long", "bad-request",
  /// 409 "version-mismatch", 503 "queue-full", "stopping", "poisoned" (it has no weights).
  virtual void submit(Request request, RequestHandler handler) = 0;
  /// Ends a request, which still tells of it. An unknown id does nothing; returns whether it was
  /// known.
  virtual bool abort_request(std::string_view id) = 0;
  /// Ends all requests, waiting ones too; returns how many.
  virtual int64_t abort_all() = 0;

  /// Stops sampling. New requests are taken in and wait. Calls `done` when no step runs any more
  /// and, for kWait, all running requests have ended; at once if it is paused already.
  /// `clear_cache` forgets the prefix cache; kept requests are computed again then.
  virtual void pause(PauseMode mode, bool clear_cache, std::function<void()> done) = 0;
  virtual void resume() = 0;
  virtual bool is_paused() const = 0;

  /// Makes staged weights current between two steps, under `version`, and calls `done` with null,
  /// or with what went wrong, in which case the old ones stay, or, if they had to make room for the
  /// new ones, none are there. The prefix cache is forgotten.
  /// Running requests go on under the new weights unless a pause said otherwise.
  virtual void swap_weights(std::unique_ptr<StagedWeights> weights,
                            std::string version,
                            std::function<void(std::exception_ptr)> done) = 0;
  virtual std::string weight_version() const = 0;
  virtual void set_weight_version(std::string version) = 0;
  /// Forgets what the prefix cache holds.
  virtual void reset_prefix_cache() = 0;

  virtual EngineStats stats() const = 0;
  virtual const EngineFacts& facts() const = 0;
  /// False once it cannot sample any more.
  virtual bool is_alive() const = 0;
  /// False if an update broke off when the old weights were gone, until others have come.
  virtual bool has_weights() const { return true; }
};

}  // namespace lockstep::rollout
