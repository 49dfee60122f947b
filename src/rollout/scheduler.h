// Which sequences run in the next step of the sampler, and which pages and state slots they hold.
// No libtorch.
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
  /// Most running sequences.
  int64_t max_num_seqs = 256;
  /// Most prompt tokens in one step; a longer prompt is alone in it.
  int64_t max_prefill_tokens = 4096;
  int64_t page_tokens = 64;
  int64_t num_pages = 0;
  /// Running sequences and prefilled prompts hold one each.
  int64_t num_slots = 0;
};

/// A prompt's samples, as the scheduler sees them.
struct GroupSpec {
  int64_t prompt_tokens = 1;
  int64_t max_new_tokens = 1;
  int64_t num_samples = 1;
};

/// Pages that a group needs at worst, its other branches waiting: the prompt and one branch beside
/// it, which shares the prompt's full pages.
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
  /// Of the group.
  int64_t sample = 0;
  /// Handle of the running sequence from now on.
  int64_t sequence = 0;
  std::optional<std::pair<int32_t, int32_t>> copy_page,
      /// From, to; unset: it takes the prompt's own.
      copy_slot;
};

/// A running sequence. `length` tokens are in the cache or become so in this step.
struct RunningSequence {
  int64_t group = 0, sample = 0;
  int32_t slot = 0;
  std::vector<int32_t> pages;
  int64_t length = 0;
};

/// Admission by reservation: a sequence gets all the pages that it may need when it starts, so that
/// none is ever stopped half-way.
///
/// Order: groups in the order of add(), samples in their order; deterministic. Not thread-safe.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits);

  /// Queues a group; returns its number. Throws InternalError if it can never fit (the engine
  /// checks requests first).
  int64_t add(const GroupSpec& group);
  bool has_work() const { return !waiting_.empty() || !prefilled_.empty() || !running_.empty(); }

  /// Samples that can start now, from prompts that are prefilled.
  std::vector<Branch> branch();
  /// Prompts to compute in the next step.
  std::vector<Prefill> start_prefills();
  /// Tells that a prompt of start_prefills() is computed.
  void prefill_done(int64_t group);
  /// Handles of the running sequences, oldest first.
  const std::vector<int64_t>& running() const { return running_; }
  RunningSequence& sequence(int64_t handle) { return *sequences_[static_cast<size_t>(handle)]; }
  const RunningSequence& sequence(int64_t handle) const {
    return *sequences_[static_cast<size_t>(handle)];
  }
  /// A sequence ended: its pages and slot go back.
  void finish(int64_t handle);

  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t pages_in_use() const { return pages_.capacity() - pages_.num_free(); }
  int64_t slots_in_use() const { return slots_.capacity() - slots_.num_free(); }

 private:
  struct Group {
    GroupSpec spec;
    int32_t slot = 0;
    /// Of the prompt.
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
