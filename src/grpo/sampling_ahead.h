// Samples the next generation batch on a thread of its own while the trainer learns from the last
// one.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "grpo/group_sampler.h"

namespace lockstep::grpo {

/// At most one round, which is sampled now or waits to be taken.
///
///   nothing ─start─▶ sampling ─▶ sampled or failed ─take─▶ nothing
///
/// Threads: all functions from one thread, which must not use the sampler between start() and a
/// wait() that has returned.
class SamplingAhead {
 public:
  /// `idle_limit`: how long a wait lasts at most without a completion that is done.
  explicit SamplingAhead(std::chrono::milliseconds idle_limit) : idle_limit_(idle_limit) {}
  /// Ends the round, if there is one.
  ~SamplingAhead();
  SamplingAhead(const SamplingAhead&) = delete;
  SamplingAhead& operator=(const SamplingAhead&) = delete;

  using Work = std::function<SampledGroups(const RolloutClient::Progress& progress)>;
  /// Begins a round. What `work` throws is thrown by the next function that looks at it.
  void start(Work work);
  /// A round that was sampled before, by a run that is resumed.
  void restore(SampledGroups groups);

  bool is_there() const { return is_there_; }
  /// Throws what the round has failed with, if it has.
  void check();
  /// Waits until the round is sampled, and returns it. Throws what it failed with; PeerError
  /// "deadline"; what `progress` throws.
  const SampledGroups& wait(const RolloutClient::Progress& progress);
  /// wait(), and hands the round over.
  SampledGroups take(const RolloutClient::Progress& progress);

 private:
  void end();

  std::chrono::milliseconds idle_limit_;
  bool is_there_ = false;
  std::atomic<bool> is_cancelled_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  /// Under the mutex while the thread runs.
  int64_t tokens_ = 0, completions_ = 0;
  std::optional<SampledGroups> groups_;
  std::exception_ptr error_;
  std::thread thread_;
};

}  // namespace lockstep::grpo
