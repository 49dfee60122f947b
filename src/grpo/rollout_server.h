// One server that samples for a trainer: the handshake, its weights, and one request at a time. It
// needs no libtorch.
//
// Lockstep's own (lockstep_server.h) gives the bits that the trainer's sampler would; vLLM's
// (vllm_server.h) is another engine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "grpo/weight_offer.h"
#include "net/http_client.h"
#include "net/rollout_protocol.h"
#include "rollout/completion.h"
#include "rollout/request.h"

namespace lockstep::grpo {

/// The weights beside which an adapter is trained: servers have them from the start, and get the
/// adapter alone.
struct BaseWeights {
  /// train::tensor_checksums of the checkpoint.
  std::map<std::string, std::string> checksums;
  /// net::base_label.
  std::string label;
  /// With what the names of this run's adapters begin.
  std::string adapter_prefix;
};

/// What became of a request.
struct RequestOutcome {
  enum class Kind : int {
    kDone,
    /// The server is too busy to take it now.
    kBusy,
    /// The server refuses it, as any other one would.
    kRefused,
    /// It failed there; another server may do it.
    kFailed,
    /// The server cannot be worked with any more: it is late, gone, or answers nonsense.
    kServerLost,
    /// `cancelled` said so.
    kCancelled,
  };
  Kind kind = Kind::kDone;
  /// What the server, or the system, said.
  std::string error;
  std::vector<rollout::Completion> completions;
};

/// Threads: sample() from any thread; the rest from one.
class RolloutServer {
 public:
  using Cancelled = std::function<bool()>;

  /// Throws ConfigError "bad-url", "bad-api-key".
  RolloutServer(const std::string& url, const std::string& api_key) : client_(url, api_key) {}
  virtual ~RolloutServer() = default;
  RolloutServer(const RolloutServer&) = delete;
  RolloutServer& operator=(const RolloutServer&) = delete;

  const std::string& url() const { return client_.url(); }
  const net::SamplerInfo& info() const { return info_; }
  /// The label of the weights that it has confirmed; empty if it has none from this trainer.
  const std::string& label() const { return label_; }
  /// Whether it computes what the trainer's own sampler would, bit for bit under --exact.
  virtual bool is_own_engine() const = 0;

  /// The handshake: learns what the server is and makes it ready to take weights. Throws PeerError
  /// for a server that does not answer within `timeout`, "not-ready" for one that is still loading
  /// its model; ConfigError "wrong-server" for one that would sample from another model than the
  /// trainer's, or cannot take its weights.
  virtual void connect(const net::SamplerIdentity& expected,
                       std::chrono::milliseconds timeout,
                       const Cancelled& cancelled) = 0;
  /// Makes the server load weights, and returns when it has confirmed that it has them: how many
  /// bytes it took. What has changed goes to a server that took the weights of before; after an
  /// error it gets all the next time. Throws PeerError; the server may hold the old or the new ones
  /// then.
  int64_t take_weights(const WeightOffer& weights,
                       std::chrono::milliseconds timeout,
                       const Cancelled& cancelled);
  /// Checks that it has the weights that it has confirmed. Throws PeerError "version-mismatch" and
  /// what asking throws.
  virtual void check_weights(std::chrono::milliseconds timeout,
                             const Cancelled& cancelled) const = 0;
  /// Takes from the server what only this trainer uses, if it answers.
  virtual void release(std::chrono::milliseconds timeout) noexcept = 0;
  /// Whether the server says that it is well. Throws PeerError.
  void check_health(std::chrono::milliseconds timeout, const Cancelled& cancelled) const;
  /// Samples the completions of a request.
  virtual RequestOutcome sample(const rollout::Request& request,
                                std::chrono::milliseconds timeout,
                                const Cancelled& cancelled) const = 0;

  /// The log-probability of each id but the first, at temperature 1. Throws PeerError.
  std::vector<float> score(const std::vector<int64_t>& ids,
                           std::chrono::milliseconds timeout,
                           const Cancelled& cancelled) const;

 protected:
  /// A name that no other trainer has.
  static std::string random_session();
  /// Makes the server load weights, or what has changed in them.
  virtual void load_weights(const WeightOffer& weights,
                            bool with_delta,
                            std::chrono::milliseconds timeout,
                            const Cancelled& cancelled) = 0;
  /// The answer to a request for completions, read by `read`; every failure as an outcome.
  RequestOutcome ask(const Json& body,
                     const std::function<std::vector<rollout::Completion>(const Json&)>& read,
                     std::chrono::milliseconds timeout,
                     const Cancelled& cancelled) const;

  net::HttpClient client_;
  net::SamplerInfo info_;
  std::string label_;
  /// The digest of the weights that it took from a peer; empty: of none.
  std::string held_;
  /// What the server calls its model, or the adapter that it has confirmed.
  std::string model_;
};

}  // namespace lockstep::grpo
