// The sampler as the training loop sees it: it completes prompts under a given version of the
// weights, wherever it runs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/check.h"
#include "rollout/completion.h"
#include "rollout/request.h"
#include "rollout/scheduler.h"  // GroupSpec

namespace lockstep::model {
class LayerInputs;
}

namespace lockstep::grpo {

/// What sampling takes of this process's memory; nothing where the sampler is elsewhere.
struct SamplerMemory {
  int64_t cache_bytes = 0;
  /// Besides the caches.
  int64_t work_bytes = 0;
  /// How many sequences the caches hold at once.
  int64_t sequences = 0;
};

/// All that a training loop asks of a sampler. What crosses it is plain data (requests and
/// completions), so that a sampler may be another process. Not thread-safe.
class RolloutClient {
 public:
  virtual ~RolloutClient() = default;

  /// The most tokens of a prompt with its completion.
  virtual int64_t max_model_len() const = 0;
  /// Throws ConfigError "prompt-too-long" or "cache-too-small" for a prompt of this length that
  /// could not be completed.
  virtual void check_room(int64_t prompt_tokens, int64_t max_new_tokens) const = 0;
  /// What sampling such groups takes; with `in_turns`, between begin_turns() and end_turns().
  virtual SamplerMemory planned_memory(std::span<const rollout::GroupSpec> groups,
                                       bool in_turns) const = 0;
  /// Several generations under the same weights follow, the prompts of each of which are those of
  /// the one before with their completions and more. What was computed for them is kept until
  /// end_turns(). `groups` are the longest that come.
  virtual void begin_turns(std::span<const rollout::GroupSpec> groups) = 0;
  virtual void end_turns() noexcept = 0;
  /// Whether the caches stay from one generation to the next; if not, training has their memory in
  /// between.
  virtual void keep_caches(bool keep) = 0;
  /// Whether it computes with the values that the trainer has, so that under --exact both give the
  /// same bits. An adapter that was merged for it is rounded with the weights.
  virtual bool has_trained_weights() const = 0;
  /// Whether generate_and_keep() works.
  virtual bool keeps_layer_inputs() const = 0;

  /// What publish() did.
  struct Published {
    /// Whether anything was sent to another process.
    bool is_new = false;
    double seconds = 0;
    /// Of the weights or of what has changed in them, taken by all servers; 0 where they lie in
    /// folders.
    int64_t bytes = 0;
    /// Of all elements, those that the last update has not changed; unset: nobody has looked.
    std::optional<double> sparsity = {};
  };
  /// Makes the trainer's weights as they are now the sampler's, as `weight_version`, unless it has
  /// that version already. Throws PeerError when no sampler takes them.
  virtual Published publish(int64_t weight_version) = 0;

  /// What a sampler in another process says of a text.
  struct ServerScores {
    std::string url;
    /// Whether it computes with the trainer's weights as the trainer does.
    bool is_exact = true;
    /// Of each id but the first, at temperature 1.
    std::vector<float> logprobs;
  };
  /// The scores of each sampler in another process, under the weights that were published last.
  /// Throws PeerError when no sampler is left.
  virtual std::vector<ServerScores> score(const std::vector<int64_t>& ids) = 0;

  /// Completions of each request, in order.
  using Completions = std::vector<std::vector<rollout::Completion>>;
  /// Called now and then with the tokens and the completions done so far. It may throw to stop.
  using Progress = std::function<void(int64_t tokens, int64_t completions)>;
  /// Called with each completion once, when it is done. It may throw to stop.
  using Done =
      std::function<void(size_t request, size_t sample, const rollout::Completion& completion)>;
  /// What is told while a generation goes on, on the thread that has asked for it.
  struct Watch {
    Progress progress;
    Done done;
    Watch() = default;
    /// Progress alone.
    template <class Function>
    requires std::is_constructible_v<Progress, Function> Watch(Function&& function)
        : progress(std::forward<Function>(function)) {}
  };
  /// Samples completions of each request under `weight_version` and no other. Ids, versions and
  /// deadlines of the requests are the client's own business.
  /// Throws PeerError "version-mismatch" if the sampler holds other weights, and PeerError for a
  /// request that could not be completed.
  virtual Completions generate(std::span<const rollout::Request> requests,
                               int64_t weight_version,
                               const Watch& watch) = 0;
  /// The same, and keeps what the layers read in `kept`, for training to reuse. Throws
  /// InternalError unless keeps_layer_inputs().
  virtual Completions generate_and_keep(std::span<const rollout::Request> /*requests*/,
                                        int64_t /*weight_version*/,
                                        const Watch& /*watch*/,
                                        model::LayerInputs& /*kept*/) {
    fail<InternalError>(
        "internal", "sampler",
        "expected a sampler in this process to keep what its layers read, got servers");
  }
};

}  // namespace lockstep::grpo
