// Decides which sequences run in the next step of the sampler, and which pages and state slots they
// hold. It needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
//
// A prompt with G samples is computed once (prefill). Its samples then branch off: full prompt
// pages are shared, the last, partly filled page and the recurrent state are copied; the last
// sample takes the prompt's own.
//
//   waiting ─ start_prefill ─> prefilled ─ branch (G times) ─> running ─ finish ─> gone
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "cache/block_pool.h"

namespace lockstep::rollout {

struct SchedulerLimits {
  /// How many sequences run at most.
  int64_t max_num_seqs = 256;
  /// How many prompt tokens one step computes at most; a longer prompt has a step of its own.
  int64_t max_prefill_tokens = 4096;
  int64_t page_tokens = 64;
  int64_t num_pages = 0;
  /// State slots; each running sequence and each prefilled prompt holds one.
  int64_t num_slots = 0;
};

/// A prompt and its samples, as far as the scheduler needs to know them.
struct GroupSpec {
  int64_t prompt_tokens = 1;
  int64_t max_new_tokens = 1;
  int64_t num_samples = 1;
};

/// How many pages a group needs at least to make progress while its other branches wait: those of
/// the prompt, and those of one branch, which shares the prompt's full pages.
int64_t pages_of_group(int64_t prompt_tokens, int64_t max_new_tokens, int64_t page_tokens);

/// A prompt to compute in this step.
struct Prefill {
  int64_t group = 0;
  int32_t slot = 0;
  std::vector<int32_t> pages;
};

/// A sample that starts from its prefilled prompt. The copies are made before its first token is
/// computed.
struct Branch {
  int64_t group = 0;
  /// The group's number.
  int64_t sample = 0;
  /// The handle by which the running sequence is known from now on.
  int64_t sequence = 0;
  /// The page and the slot to copy, from the first to the second; unset if the sample takes over
  /// the prompt's own.
  std::optional<std::pair<int32_t, int32_t>> copy_page, copy_slot;
};

/// A running sequence; `length` of its tokens are in the cache, or will be after this step.
struct RunningSequence {
  int64_t group = 0, sample = 0;
  int32_t slot = 0;
  std::vector<int32_t> pages;
  int64_t length = 0;
};

/// Admits sequences by reservation: a sequence gets all pages that it may need when it starts, so
/// that none is ever stopped half-way.
///
/// Groups start in the order of add(), samples in the order of their numbers; all is deterministic.
/// Not thread-safe.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits);

  /// Queues a group; returns its number. Throws InternalError if it can never fit (the engine
  /// checks requests first).
  int64_t add(const GroupSpec& group);
  bool has_work() const { return !waiting_.empty() || !prefilled_.empty() || !running_.empty(); }

  /// Starts the samples of prefilled prompts for which there is room now.
  std::vector<Branch> branch();
  /// Chooses the prompts to compute in the next step.
  std::vector<Prefill> start_prefills();
  /// Says that a prompt of start_prefills() has been computed.
  void prefill_done(int64_t group);
  /// The handles of the running sequences, oldest first.
  const std::vector<int64_t>& running() const { return running_; }
  RunningSequence& sequence(int64_t handle) { return *sequences_[static_cast<size_t>(handle)]; }
  const RunningSequence& sequence(int64_t handle) const {
    return *sequences_[static_cast<size_t>(handle)];
  }
  /// Says that a sequence ended, and frees its pages and its slot.
  void finish(int64_t handle);

  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t pages_in_use() const { return pages_.capacity() - pages_.num_free(); }
  int64_t slots_in_use() const { return slots_.capacity() - slots_.num_free(); }

 private:
  struct Group {
    GroupSpec spec;
    int32_t slot = 0;
    /// The prompt's pages.
    std::vector<int32_t> pages;
    int64_t branched = 0;
  };
  int64_t pages_for(int64_t tokens) const {
    return (tokens + limits_.page_tokens - 1) / limits_.page_tokens;
  }
  std::optional<Branch> branch_one(int64_t group);

  SchedulerLimits limits_;
  cache::BlockPool pages_, slots_;
  std::vector<Group> groups_;
  std::deque<int64_t> waiting_, prefilled_;
  std::vector<std::optional<RunningSequence>> sequences_;
  std::vector<int64_t> running_;
};

}  // namespace lockstep::rollout
