// Decides what the sampler computes in its next step, and which pages and state slots its sequences
// hold. It needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
//
//             start                computed, append                finish
//   waiting ─────────> running ────────────────────────> running ─────────> gone
//      ^                  │
//      └──── preempt ─────┘   its pages and its slot are free; it is computed again later
//
// A sequence gets pages as its tokens come. When none is left, the youngest one gives up its own:
// what it holds can be computed again, to the same bits. A prompt with G samples is computed once:
// the first sample leaves it in the prefix cache, where the others find it.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "cache/block_pool.h"
#include "cache/prefix_cache.h"

namespace lockstep::rollout {

struct SchedulerLimits {
  /// How many sequences run at most.
  int64_t max_num_seqs = 256;
  /// How many tokens one step computes at most.
  int64_t max_step_tokens = 4096;
  int64_t page_tokens = 64;
  int64_t num_pages = 0;
  /// State slots: one for each running sequence, and one for each state in the prefix cache.
  int64_t num_slots = 0;
  /// The model has recurrent layers, so that a prefix can be used only where a state was kept.
  bool needs_states = false;
  /// Prefixes outlive the group that computed them.
  bool keeps_prefixes = false;
  /// With both, the state is kept every so many tokens, before and behind the end of a prompt, and
  /// where sequences branch.
  int64_t state_interval = 512;
};

/// A prompt and its samples.
struct Group {
  std::vector<int64_t> prompt;
  int64_t max_new_tokens = 1;
  int64_t num_samples = 1;
  /// Prefixes are shared within a space only: they were computed by the same weights.
  uint64_t space = 0;
  /// The first sample computes all tokens of the prompt, though the cache may know them.
  bool computes_prompt = false;
};

/// The lengths of a group, for planning.
struct GroupSpec {
  int64_t prompt_tokens = 1;
  int64_t max_new_tokens = 1;
  int64_t num_samples = 1;
};

/// How many pages a group needs at least to make progress while its other samples wait: those of a
/// whole sequence, and one that is copied.
int64_t pages_of_group(int64_t prompt_tokens, int64_t max_new_tokens, int64_t page_tokens);

/// A sequence that starts, or goes on after it was preempted.
struct Start {
  int64_t sequence = 0;
  /// How many of its tokens are in its pages already.
  int64_t cached_tokens = 0;
  /// A page and a slot to copy into its own before the next plan(); 0: none.
  int32_t copied_page = 0, copied_slot = 0;
  /// Nothing is left to compute: its next token is drawn from what was kept with copied_slot.
  bool is_whole = false;
};

/// A part of a sequence that the step computes.
struct Work {
  int64_t sequence = 0;
  /// Its tokens [first, first + count).
  int64_t first = 0, count = 0;
  /// They are its last ones, so that the next token is drawn.
  bool draws = false;
};

/// A slot to copy, since the prefix cache keeps the state that it holds now.
struct Snapshot {
  int32_t from = 0, to = 0;
  /// What the next token is drawn from is kept with it.
  bool ends_prompt = false;
};

/// A sample in work.
struct Sequence {
  int64_t group = 0, sample = 0;
  /// Prompt and completion.
  std::vector<int64_t> tokens;
  int64_t prompt_tokens = 0;
  /// How many of them are in the pages, or will be after this step.
  int64_t computed = 0;
  std::vector<int32_t> pages;
  int32_t slot = 0;
  bool is_running = false;
  /// Arrival of its group.
  uint64_t order = 0;
  /// Up to here another sequence began alike; 0: nowhere.
  int64_t branch = 0;

  int64_t left() const { return static_cast<int64_t>(tokens.size()) - computed; }
};

/// Groups start in the order of add(), samples in the order of their numbers, and those that came
/// first are served first; all is deterministic. Handles of groups and sequences that are gone are
/// used again. Not thread-safe.
///
/// A step: start(), copies, draws of those that are whole (append or finish); plan(), the forward,
/// computed() for each work, copies of the snapshots, draws.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits);

  /// Queues a group; returns its handle. Throws InternalError if it can never fit (the engine
  /// checks requests first).
  int64_t add(Group group);
  bool has_work() const { return !running_.empty() || has_waiting(); }
  bool has_waiting() const { return !preempted_.empty() || !waiting_.empty(); }

  /// Starts waiting samples for which there is room. With `begun_only`, none of a group of which
  /// none has started.
  std::vector<Start> start(bool begun_only = false);
  /// Chooses what the next step computes: a token of each running sequence, and up to
  /// `prefill_tokens` of those that have more to compute. These come first. Preempts sequences
  /// that there is no room for.
  std::vector<Work> plan(int64_t prefill_tokens);
  /// Says that a work has been computed.
  std::optional<Snapshot> computed(const Work& work);
  /// The next token of a sequence.
  void append(int64_t sequence, int64_t token);
  /// Ends a running or preempted sequence.
  void finish(int64_t sequence);
  /// Ends a group's samples that have not started. Returns how many there were. The handle is gone
  /// when no sample of it is left.
  int64_t cancel_waiting(int64_t group);
  /// Preempts all running sequences. Unless what they computed is worth keeping, they are computed
  /// anew.
  void preempt_all(bool keeps_prefixes);
  /// Forgets all prefixes.
  void forget_prefixes();

  const Sequence& sequence(int64_t handle) const {
    return *sequences_[static_cast<size_t>(handle)];
  }
  /// The running sequences, oldest first.
  const std::vector<int64_t>& running() const { return running_; }
  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  /// Groups of which no sample has started, and preempted sequences.
  int64_t num_waiting() const;
  int64_t num_preemptions() const { return preemptions_; }
  /// Tokens looked for in the prefix cache, and found there.
  int64_t prefix_queries() const { return queries_; }
  int64_t prefix_hits() const { return hits_; }
  const cache::BlockPool& pages() const { return pages_; }
  const cache::BlockPool& slots() const { return slots_; }

 private:
  struct GroupState {
    Group group;
    uint64_t order = 0, space = 0;
    int64_t started = 0, alive = 0;
    /// The sequence that computes the prompt for the others; -1: none.
    int64_t leader = -1;
  };

  int64_t pages_for(int64_t tokens) const {
    return (tokens + limits_.page_tokens - 1) / limits_.page_tokens;
  }
  GroupState& group_of(const Sequence& sequence) {
    return *groups_[static_cast<size_t>(sequence.group)];
  }
  int32_t take_page();
  int32_t take_slot();
  int64_t new_sequence(int64_t group);
  std::optional<Start> try_start(int64_t handle);
  bool admit(Sequence& sequence, Start& start, const cache::PrefixCache::Match& match);
  void release(const cache::PrefixCache::Match& match);
  int64_t pages_wanted_soon() const;
  int64_t pending_tokens() const;
  void run(int64_t handle);
  void insert_in_order(std::vector<int64_t>& list, int64_t handle) const;
  bool has_page(Sequence& sequence);
  int64_t chunk_of(const Sequence& sequence, int64_t budget) const;
  int64_t kept_boundary(const Sequence& sequence) const;
  bool keeps_state(const Sequence& sequence) const;
  void preempt(int64_t handle, bool keeps_prefix = true);
  void free_memory(Sequence& sequence, bool keeps_prefix);
  void forget_group(int64_t handle);

  SchedulerLimits limits_;
  cache::BlockPool pages_, slots_;
  cache::PrefixCache prefixes_;
  std::vector<std::optional<GroupState>> groups_;
  std::vector<std::optional<Sequence>> sequences_;
  std::vector<int64_t> free_groups_, free_sequences_;
  /// Groups with samples that have not started, in order.
  std::deque<int64_t> waiting_;
  /// In order, as the running ones.
  std::vector<int64_t> preempted_, running_;
  /// What start() found and the engine copies before the next plan().
  std::vector<cache::PrefixCache::Match> copied_;
  uint64_t groups_added_ = 0;
  int64_t preemptions_ = 0, queries_ = 0, hits_ = 0;
};

}  // namespace lockstep::rollout
