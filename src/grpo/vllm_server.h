// A server of vLLM with the plugin of integrations/vllm, which samples for a trainer. It needs no
// libtorch.
// SPDX-License-Identifier: Apache-2.0
//
// vLLM answers 200 to updates that carried nothing, and on several ranks an answer may be that of
// an earlier call. So every step of an update is believed only after each rank's own status, which
// the plugin tells.
#pragma once

#include <string>
#include <vector>

#include "base/json_fwd.h"
#include "grpo/rollout_server.h"

namespace lockstep::grpo {

class VllmServer : public RolloutServer {
 public:
  VllmServer(const std::string& url, const std::string& api_key) : RolloutServer(url, api_key) {}

  /// Whether what a server tells of itself (GET /server_info) is vLLM's.
  static bool is_vllm(const Json& server_info);

  bool is_own_engine() const override { return false; }
  void connect(const net::SamplerIdentity& expected,
               std::chrono::milliseconds timeout,
               const Cancelled& cancelled) override;
  void check_weights(std::chrono::milliseconds timeout, const Cancelled& cancelled) const override;
  void release(std::chrono::milliseconds) noexcept override {}
  RequestOutcome sample(const rollout::Request& request,
                        std::chrono::milliseconds timeout,
                        const Cancelled& cancelled) const override;

 private:
  /// Between a pause and a resume. An engine that was left half-changed stays paused.
  void load_weights(const WeightOffer& weights,
                    bool with_delta,
                    std::chrono::milliseconds timeout,
                    const Cancelled& cancelled) override;
  void expect_weights(const std::string& label,
                      const std::string& digest,
                      std::chrono::milliseconds timeout,
                      const Cancelled& cancelled) const;
  void read_settings(const Json& about, const net::SamplerIdentity& expected);
  std::vector<Json> statuses(std::chrono::milliseconds timeout, const Cancelled& cancelled) const;
  void expect_status(const char* field,
                     const std::string& expected,
                     const char* state,
                     std::chrono::milliseconds timeout,
                     const Cancelled& cancelled) const;
  void start(std::chrono::milliseconds timeout, const Cancelled& cancelled) const;
  void update(const WeightOffer& weights,
              bool with_delta,
              std::chrono::milliseconds timeout,
              const Cancelled& cancelled) const;

  /// The digest of the weights that it has confirmed.
  std::string digest_;
  int64_t num_ranks_ = 1;
};

}  // namespace lockstep::grpo
