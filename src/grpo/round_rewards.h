// Rewards of a round of sampling, those in other processes while it goes on.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "grpo/prompts.h"
#include "grpo/round_part.h"
#include "grpo/turn_record.h"
#include "reward/rewarder.h"

namespace lockstep::grpo {

/// Gives rewards to the completions of a round.
///
///   begin ─▶ add each completion when it is done ─▶ finish
///
/// A reward in another process works on a thread of its own, on each group whose completions are
/// all done, while others are still sampled. The built-in ones, which would take the processor from
/// the sampler, wait for finish(). Values and notes are placed by completion and do not depend on
/// the order in which completions are done. Threads: each function by one thread at a time.
class RoundRewards {
 public:
  /// `rewarder` must outlive it. `part`: which groups of the round it gets; rewards are told the
  /// numbers that these have in the round.
  RoundRewards(const reward::Rewarder& rewarder,
               const reward::RunState& run,
               const RoundPart& part = {});
  /// Ends the round; waits for calls that have begun.
  ~RoundRewards();
  RoundRewards(const RoundRewards&) = delete;
  RoundRewards& operator=(const RoundRewards&) = delete;

  /// `prompts`, which must outlive it, have `group_size` completions each.
  void begin(std::vector<const Prompt*> prompts, int64_t group_size);
  /// What rewards see of a completion.
  struct Completed {
    /// All of it, or its last turn where it has several.
    std::string text;
    std::vector<int64_t> token_ids;
    /// "stop" or "length".
    std::string_view finish_reason;
    /// Set where it has turns.
    std::optional<TurnRecord> record;
  };
  /// A completion that is done: `place` counts through the groups. Throws what a reward has failed
  /// with.
  void add(size_t place, Completed completed);
  /// What the rewards make of the completions.
  struct Judgement {
    /// [completion][reward function]
    std::vector<reward::Values> values;
    /// Those of each reward function.
    std::vector<reward::PlacedNotes> notes;
    /// As of reward::Notes.
    std::vector<int64_t> failures;
  };
  /// When all completions have been added. Throws what a reward has failed with.
  Judgement finish();

  bool has_begun() const { return has_begun_; }
  /// For how many seconds a reward has worked before finish() was called: of several, the longest.
  double hidden_seconds() const { return hidden_seconds_; }

 private:
  using Clock = std::chrono::steady_clock;
  /// A reward function and what it has given.
  struct Worker {
    const reward::RewardFunction* function = nullptr;
    /// Not running for a built-in one.
    std::thread thread;
    std::vector<std::optional<double>> values;
    reward::PlacedNotes notes;
    /// How many of `ready_` it has taken.
    size_t taken = 0;
    /// How long its calls have taken that are over, and since when one goes on.
    Clock::duration busy{};
    std::optional<Clock::time_point> busy_since;
  };

  void work(Worker& worker);
  void judge(Worker& worker, std::span<const size_t> groups);
  reward::RewardInput input_of(size_t completion) const;
  void stop();

  const reward::Rewarder* rewarder_;
  reward::RunState run_;
  RoundPart part_;
  bool has_begun_ = false;
  std::vector<const Prompt*> prompts_;
  size_t group_size_ = 1;
  std::vector<std::unique_ptr<Worker>> workers_;
  double hidden_seconds_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Under the mutex from here on. A completion is written before its group is ready, and read
  // after.
  std::vector<Completed> completed_;
  /// How many completions of each group are not done.
  std::vector<size_t> left_;
  /// The groups that are done, in that order.
  std::vector<size_t> ready_;
  /// No more groups will be ready; and no more are to be taken.
  bool is_complete_ = false, is_stopped_ = false;
  std::exception_ptr error_;
};

}  // namespace lockstep::grpo
