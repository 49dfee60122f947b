// One server that samples for a trainer: the handshake, its weights, and one request at a time. It
// needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "net/http_client.h"
#include "net/rollout_protocol.h"
#include "rollout/completion.h"
#include "rollout/request.h"

namespace lockstep::grpo {

/// Weights that servers can load: a checkpoint or an adapter in a folder, or all weights in a block
/// of shared memory.
struct WeightOffer {
  std::filesystem::path path = {};
  /// The block's name and size; empty: they lie in the folder.
  std::string shared_memory = {};
  size_t bytes = 0;
  /// In hexadecimal digits: train::digest_tensors of a checkpoint, model::adapter_digest of an
  /// adapter, sync::WeightImage::digest of a block.
  std::string digest;
  /// net::weight_label.
  std::string label;
  /// What servers call the adapter, and how many pairs it has; empty: these are all weights.
  std::string adapter_name = {};
  int64_t num_pairs = 0;
};

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

  /// Without `base`, which must outlive it, all weights come from the trainer. Throws ConfigError
  /// "bad-url", "bad-api-key".
  RolloutServer(const std::string& url, const std::string& api_key, const BaseWeights* base)
      : client_(url, api_key), base_(base) {}

  const std::string& url() const { return client_.url(); }
  const net::SamplerInfo& info() const { return info_; }
  /// The label of the weights that it has confirmed; empty if it has none from this trainer.
  const std::string& label() const { return label_; }

  /// The handshake: learns what the server is and makes it ready to take weights. Throws PeerError
  /// for a server that does not answer within `timeout`, "not-ready" for one that is still loading
  /// its model; ConfigError "wrong-server" for one that would sample other tokens than the
  /// trainer's own sampler, or has other weights than the base.
  void connect(const net::SamplerIdentity& expected,
               std::chrono::milliseconds timeout,
               const Cancelled& cancelled);
  /// Makes the server load weights, and returns when it has confirmed their version, or that each
  /// pair of an adapter is bound with its values. Throws PeerError; the server may hold the old or
  /// the new ones then.
  void take_weights(const WeightOffer& weights,
                    std::chrono::milliseconds timeout,
                    const Cancelled& cancelled);
  /// Takes from the server what only this trainer uses, if it answers.
  void release(std::chrono::milliseconds timeout) noexcept;
  /// Whether the server says that it is well. Throws PeerError.
  void check_health(std::chrono::milliseconds timeout, const Cancelled& cancelled) const;
  /// Samples the completions of a request.
  RequestOutcome sample(const rollout::Request& request,
                        std::chrono::milliseconds timeout,
                        const Cancelled& cancelled) const;

 private:
  void start_update(std::chrono::milliseconds timeout, const Cancelled& cancelled) const;
  void check_base(std::chrono::milliseconds timeout, const Cancelled& cancelled) const;
  void take_checkpoint(const WeightOffer& weights,
                       std::chrono::milliseconds timeout,
                       const Cancelled& cancelled);
  void take_adapter(const WeightOffer& weights,
                    std::chrono::milliseconds timeout,
                    const Cancelled& cancelled);
  void expect_version(const std::string& version,
                      std::chrono::milliseconds timeout,
                      const Cancelled& cancelled) const;

  net::HttpClient client_;
  const BaseWeights* base_;
  net::SamplerInfo info_;
  /// What the server calls its model, or the adapter that it has confirmed.
  std::string model_, label_;
  /// With an adapter: its digest.
  std::string adapter_digest_;
};

}  // namespace lockstep::grpo
