// A trainer's side of the way of weights over TCP: it listens, and receivers pull what they lack.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "sync/connection.h"
#include "sync/shared_memory.h"
#include "sync/tcp_wire.h"

namespace lockstep::sync {

/// Where receivers find a trainer, and the secret that they must know.
struct SenderAddress {
  std::string host;
  uint16_t port = 0;
  std::string token;
};

/// What is there to be pulled.
struct SentWeights {
  /// WeightImage::digest() of the block, in hexadecimal digits.
  std::string digest;
  std::shared_ptr<const SharedMemory> block;
  /// The digest of the weights from which the delta leads to these; empty: there is none.
  std::string base = {};
  std::shared_ptr<const SharedMemory> delta = {};
};

struct SenderLimits {
  /// A connection on which nothing is asked or taken for so long is closed.
  std::chrono::milliseconds idle{60'000};
  /// Further connections wait until others are done.
  int connections = 256;
};

/// Sends what is offered to everybody who knows the token, each connection by a thread of its own.
/// The bytes are not encrypted. Threads: one calls.
class WeightSender {
 public:
  /// Listens on a port of the address that `host` is (0: a free port). Throws IoError
  /// "cannot-listen".
  WeightSender(const std::string& host, uint16_t port, const SenderLimits& limits = {});
  ~WeightSender();
  WeightSender(const WeightSender&) = delete;
  WeightSender& operator=(const WeightSender&) = delete;

  const SenderAddress& address() const { return address_; }
  /// What receivers get until withdraw().
  void offer(SentWeights weights);
  /// Cuts all connections. Nobody reads what was offered any more when it returns: what is under
  /// way to a receiver shows by its digest.
  void withdraw();
  /// How many bytes of weights receivers have been sent.
  int64_t bytes_sent() const { return bytes_sent_; }

 private:
  struct Peer;
  void listen(uint16_t port);
  void accept_peers();
  void take(int socket, std::string name);
  void serve(Peer& peer);
  void answer(Connection& connection, const RangeRequest& request);
  SentWeights offered() const;

  SenderAddress address_;
  SenderLimits limits_;
  int listener_ = -1;
  std::atomic<int64_t> bytes_sent_{0};
  std::atomic<bool> is_stopping_{false};
  mutable std::mutex mutex_;
  std::condition_variable has_fewer_;
  SentWeights weights_;
  std::list<Peer> peers_;
  int num_serving_ = 0;
  bool is_withdrawing_ = false;
  // Last: it works on all that stands above.
  std::thread accepting_;
};

}  // namespace lockstep::sync
