// After each update of servers' weights: what do trainer and servers say of the same text?
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "grpo/metrics.h"
#include "grpo/rollout_client.h"
#include "train/trainer.h"

namespace lockstep::grpo {

/// Scores a text on both sides. Digests say that the right bytes arrived; this says that they are
/// used as they should be. Not thread-safe.
class SyncProbe {
 public:
  /// Of `ids` at most kMostTokens are taken. Under `exact` a sampler that computes as the trainer
  /// does must say the same; others may differ by `bound`, unset: by anything. `trainer` and
  /// `rollout` must outlive it.
  SyncProbe(const train::Trainer& trainer,
            RolloutClient& rollout,
            std::vector<int64_t> ids,
            bool exact,
            std::optional<double> bound);

  /// Adds `sync/…` of an update to `metrics`; does nothing if nothing was sent. Throws PeerError
  /// "wrong-weights" naming the server and the token that differs by too much.
  void check(const RolloutClient::Published& published, Metrics& metrics) const;

  static constexpr size_t kMostTokens = 256;

 private:
  const train::Trainer& trainer_;
  RolloutClient& rollout_;
  train::Sample sample_;
  bool is_exact_;
  std::optional<double> bound_;
};

}  // namespace lockstep::grpo
