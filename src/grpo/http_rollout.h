// Samplers in other processes: requests are shared out among servers, whose weights follow the
// trainer's. It needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"
#include "grpo/options.h"  // OnServerLoss, RolloutEngine
#include "grpo/request_round.h"
#include "grpo/rollout_client.h"
#include "grpo/rollout_server.h"

namespace lockstep::grpo {

struct HttpRolloutOptions {
  std::vector<std::string> urls;
  /// What the servers are; kAuto: as each says.
  RolloutEngine engine = RolloutEngine::kAuto;
  std::string api_key;
  /// The longest prompt with its completion, if the trainer wants less than the servers allow.
  std::optional<int64_t> max_model_len;
  /// For a server to be there when the run begins, to answer one request, and to take weights.
  std::chrono::milliseconds start_timeout{240'000}, request_timeout{3'600'000},
      sync_timeout{600'000};
  OnServerLoss on_loss = OnServerLoss::kContinue;
  /// Set where the trainer's weights are an adapter beside these.
  std::optional<BaseWeights> base;
  /// The servers' weights are the model's with the trainer's adapter merged into them.
  bool has_merged_weights = false;
  /// Completions of this run have several turns.
  bool makes_turns = false;
  /// The servers have to tell which experts they chose.
  bool needs_experts = false;
  /// What the weights take of this process's memory on their way.
  int64_t shared_bytes = 0;
  /// How often a server that works on requests is asked whether it is well, and how long it may
  /// take to say so. One that fails twice in a row is lost.
  std::chrono::milliseconds health_interval{5'000}, health_timeout{10'000};
};

/// Writes the trainer's weights as they are now for `weight_version`, in the place of those that it
/// wrote before. `anew`: a server that was lost may still read those.
using WriteWeights = std::function<WeightOffer(int64_t weight_version, bool anew)>;

/// A sampler of one or several servers.
///
/// Requests go one by one to the server with the fewest tokens in work. A server that is gone,
/// late, or of other weights is lost: its requests are sampled again on others, which give the same
/// tokens. publish() takes it back once it answers again. Every wait has a deadline.
///
/// Not thread-safe, but any one thread may call it at a time.
class HttpRollout : public RolloutClient {
 public:
  /// Waits until every server is there, and compares each with `expected`. Throws PeerError for one
  /// that does not come, ConfigError "wrong-server" for another sampler, "bad-url", "bad-flag".
  HttpRollout(const HttpRolloutOptions& options,
              const net::SamplerIdentity& expected,
              WriteWeights write_weights);
  ~HttpRollout() override;

  int64_t max_model_len() const override;
  void check_room(int64_t prompt_tokens, int64_t max_new_tokens) const override;
  SamplerMemory planned_memory(std::span<const rollout::GroupSpec>, bool) const override {
    return {.work_bytes = options_.shared_bytes};
  }
  /// Servers keep what they have computed anyway.
  void begin_turns(std::span<const rollout::GroupSpec>) override {}
  void end_turns() noexcept override {}
  void keep_caches(bool) override {}
  bool has_trained_weights() const override;
  bool keeps_layer_inputs() const override { return false; }
  /// Returns when every server has confirmed the version, without those that were lost over it.
  Published publish(int64_t weight_version) override;
  std::vector<ServerScores> score(const std::vector<int64_t>& ids) override;
  Completions generate(std::span<const rollout::Request> requests,
                       int64_t weight_version,
                       const Watch& watch) override;

 private:
  std::unique_ptr<RolloutServer> make_server(const std::string& url, RolloutEngine engine) const;
  void find_engine(SamplingServer& one, std::chrono::milliseconds timeout) const;
  void wait_for(SamplingServer& one);
  void take_back();
  int64_t give_weights(RolloutServer& server) const;
  Published send_weights();
  void lose(SamplingServer& one, const char* why, const PeerError& error) const;
  void check_left(const std::string& why) const;

  HttpRolloutOptions options_;
  net::SamplerIdentity expected_;
  WriteWeights write_weights_;
  std::vector<std::unique_ptr<SamplingServer>> servers_;
  int64_t version_ = -1;
  WeightOffer weights_;
  /// Some server did not say that it is done with them.
  bool may_be_read_ = false;
};

}  // namespace lockstep::grpo
