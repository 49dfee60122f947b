// Shares the requests of one generation out among servers. It needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "grpo/rollout_client.h"
#include "grpo/rollout_server.h"

namespace lockstep::grpo {

/// A server, and whether it can be worked with.
struct SamplingServer {
  std::unique_ptr<RolloutServer> server;
  std::atomic<bool> is_alive{false};
};

struct RoundTimeouts {
  /// For the answer to one request; between two questions whether a server is well, and for the
  /// answer to one.
  std::chrono::milliseconds request, health_interval, health;
};

/// One call of generate().
///
///   pending ─▶ in work on a server ─▶ done
///      ▲                │ the server is lost, too busy, or failed at it
///      └────────────────┘ (kMostAttempts failures: the request has failed, and so has the round)
///
/// Each request in work has a thread, which waits for its answer. Threads: run() once, from one
/// thread.
class RequestRound {
 public:
  /// `servers` must outlive it. The requests get ids and `version` as their weight version.
  RequestRound(std::vector<rollout::Request> requests,
               const std::vector<std::unique_ptr<SamplingServer>>& servers,
               const std::string& version,
               const RoundTimeouts& timeouts);
  ~RequestRound();
  RequestRound(const RequestRound&) = delete;
  RequestRound& operator=(const RequestRound&) = delete;

  /// Completions of all requests, in order. `check_left` is called on this thread with the reason
  /// when a server is lost, and throws when the others will not do. Throws PeerError
  /// "request-failed" naming each request that no server could do.
  RolloutClient::Completions run(const RolloutClient::Watch& watch,
                                 const std::function<void(const std::string& why)>& check_left);

 private:
  using Clock = std::chrono::steady_clock;
  struct Item {
    size_t request = 0;
    /// How often a server that goes on has failed at it.
    int failures = 0;
    /// The last one of them; another server tries it next, if there is one.
    const SamplingServer* failed_at = nullptr;
    std::string error;
    /// Since when servers have been too busy for it.
    Clock::time_point busy_since{};
    /// It is not tried before.
    Clock::time_point not_before{};
  };
  /// What a server has in work, and how many requests it has had in all.
  struct Load {
    SamplingServer* server = nullptr;
    int64_t requests = 0, most_requests = 1;
    int64_t tokens = 0, taken = 0;
    Clock::time_point oldest{};
  };

  void start_threads();
  void work();
  void watch_health(SamplingServer& server);
  bool take(Item& item, Load*& load);
  void settle(Item& item, Load& load, RequestOutcome outcome);
  void lose(Load& load, const std::string& why);
  void fail_request(const Item& item);
  int64_t cost_of(const Item& item) const;
  [[noreturn]] void report_failures() const;
  bool is_over() const { return is_stopped_ || num_done_ == std::ssize(requests_); }

  std::vector<rollout::Request> requests_;
  RoundTimeouts timeouts_;

  std::mutex mutex_;
  /// Wakes threads that wait for work, and run().
  std::condition_variable changed_;
  std::vector<Load> loads_;
  std::deque<Item> pending_;
  RolloutClient::Completions results_;
  int64_t num_done_ = 0, num_tokens_ = 0, num_completions_ = 0, in_work_ = 0;
  std::vector<std::pair<size_t, std::string>> failures_;
  std::vector<std::string> losses_;
  /// The requests that are done and not told yet.
  std::vector<size_t> done_;
  std::atomic<bool> is_stopped_{false};
  std::vector<std::thread> threads_;
};

}  // namespace lockstep::grpo
