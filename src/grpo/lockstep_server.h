// A `lockstep rollout` server that samples for a trainer. It needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "grpo/rollout_server.h"

namespace lockstep::grpo {

class LockstepServer : public RolloutServer {
 public:
  /// Without `base`, which must outlive it, all weights come from the trainer; else it is refused
  /// if it has others, and takes adapters of which each pair must be bound with its values.
  LockstepServer(const std::string& url, const std::string& api_key, const BaseWeights* base)
      : RolloutServer(url, api_key), base_(base) {}

  bool is_own_engine() const override { return true; }
  void connect(const net::SamplerIdentity& expected,
               std::chrono::milliseconds timeout,
               const Cancelled& cancelled) override;
  /// Answers say which weights they come from: nothing is left to check.
  void check_weights(std::chrono::milliseconds, const Cancelled&) const override {}
  void release(std::chrono::milliseconds timeout) noexcept override;
  RequestOutcome sample(const rollout::Request& request,
                        std::chrono::milliseconds timeout,
                        const Cancelled& cancelled) const override;

 private:
  void load_weights(const WeightOffer& weights,
                    bool with_delta,
                    std::chrono::milliseconds timeout,
                    const Cancelled& cancelled) override;
  void start_update(std::chrono::milliseconds timeout, const Cancelled& cancelled) const;
  void check_base(std::chrono::milliseconds timeout, const Cancelled& cancelled) const;
  void take_checkpoint(const WeightOffer& weights,
                       bool with_delta,
                       std::chrono::milliseconds timeout,
                       const Cancelled& cancelled);
  void take_adapter(const WeightOffer& weights,
                    std::chrono::milliseconds timeout,
                    const Cancelled& cancelled);
  void expect_version(const std::string& version,
                      std::chrono::milliseconds timeout,
                      const Cancelled& cancelled) const;

  const BaseWeights* base_;
  /// What this trainer calls itself since the last handshake: a server takes no step of an update
  /// from one that another has taken the place of.
  std::string session_;
  /// With an adapter: its digest.
  std::string adapter_digest_;
};

}  // namespace lockstep::grpo
