// Servers that sample for a run of several ranks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "grpo/rollout_client.h"
#include "parallel/group.h"

namespace lockstep::grpo {

/// The client that the first rank has, as all ranks see it. It alone talks to servers: it sends
/// them weights once, and shares requests out to all of them. What it learns of them all ranks
/// know. Not thread-safe.
class FirstRankRollout : public RolloutClient {
 public:
  /// `make` makes the client, on the first rank. Throws on all ranks what it throws, as
  /// parallel::gather_results() says. `ranks` must outlive it.
  FirstRankRollout(parallel::Group& ranks,
                   const std::function<std::unique_ptr<RolloutClient>()>& make);

  int64_t max_model_len() const override { return facts_.max_model_len; }
  void check_room(int64_t prompt_tokens, int64_t max_new_tokens) const override;
  SamplerMemory planned_memory(std::span<const rollout::GroupSpec>, bool) const override {
    return facts_.memory;
  }
  void begin_turns(std::span<const rollout::GroupSpec> groups) override;
  void end_turns() noexcept override;
  void keep_caches(bool keep) override;
  bool has_trained_weights() const override { return facts_.has_trained_weights; }
  bool keeps_layer_inputs() const override { return false; }
  /// Ranks meet.
  Published publish(int64_t weight_version) override;
  /// Ranks meet.
  std::vector<ServerScores> score(const std::vector<int64_t>& ids) override;
  /// On the first rank; the others may ask for nothing.
  Completions generate(std::span<const rollout::Request> requests,
                       int64_t weight_version,
                       const Watch& watch) override;

 private:
  /// What of the client does not change.
  struct Facts {
    int64_t max_model_len = 0;
    SamplerMemory memory;
    bool has_trained_weights = false;
  };

  parallel::Group& ranks_;
  /// Null on all ranks but the first.
  std::unique_ptr<RolloutClient> client_;
  Facts facts_;
};

}  // namespace lockstep::grpo
