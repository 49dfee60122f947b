// SPDX-License-Identifier: Apache-2.0
#include "grpo/sampling_ahead.h"

#include <utility>

#include "base/check.h"

namespace lockstep::grpo {
namespace {

/// How often a wait tells of its progress.
constexpr std::chrono::milliseconds kPoll{100};

}  // namespace

SamplingAhead::~SamplingAhead() { end(); }

void SamplingAhead::end() {
  is_cancelled_ = true;
  if (thread_.joinable()) thread_.join();
  is_cancelled_ = false;
  groups_.reset();
  error_ = nullptr;
  is_there_ = false;
}

void SamplingAhead::start(Work work) {
  LOCKSTEP_CHECK(!is_there_, "a round is sampled already");
  end();
  is_there_ = true;
  tokens_ = completions_ = 0;
  thread_ = std::thread([this, work = std::move(work)] {
    std::optional<SampledGroups> groups;
    std::exception_ptr error;
    try {
      groups = work([this](int64_t tokens, int64_t completions) {
        if (is_cancelled_)
          fail<InterruptedError>("interrupted", "sampling ahead",
                                 "expected to finish, got the end");
        const std::lock_guard lock(mutex_);
        tokens_ = tokens;
        completions_ = completions;
      });
    } catch (...) {
      error = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    groups_ = std::move(groups);
    error_ = error;
    changed_.notify_all();
  });
}

void SamplingAhead::restore(SampledGroups groups) {
  end();
  groups_ = std::move(groups);
  is_there_ = true;
}

void SamplingAhead::check() {
  const std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(error_);
}

const SampledGroups& SamplingAhead::wait(const RolloutClient::Progress& progress) {
  LOCKSTEP_CHECK(is_there_, "no round is sampled");
  using Clock = std::chrono::steady_clock;
  std::unique_lock lock(mutex_);
  auto last_change = Clock::now();
  int64_t last = completions_;
  while (!groups_ && !error_) {
    changed_.wait_for(lock, kPoll);
    const int64_t tokens = tokens_, completions = completions_;
    if (completions != last) last_change = Clock::now();
    last = completions;
    if (Clock::now() - last_change > idle_limit_)
      fail<PeerError>("deadline", "sampling ahead",
                      "expected a completion of the next generation batch within {:.4g} s, got "
                      "none since the first {}",
                      static_cast<double>(idle_limit_.count()) / 1000, completions);
    lock.unlock();
    if (progress) progress(tokens, completions);
    lock.lock();
  }
  if (error_) std::rethrow_exception(error_);
  return *groups_;
}

SampledGroups SamplingAhead::take(const RolloutClient::Progress& progress) {
  wait(progress);
  SampledGroups groups = std::move(*groups_);
  end();
  return groups;
}

}  // namespace lockstep::grpo
