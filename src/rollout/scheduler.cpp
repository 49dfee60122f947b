// SPDX-License-Identifier: Apache-2.0
#include "rollout/scheduler.h"

#include <algorithm>

#include "base/check.h"

namespace lockstep::rollout {
namespace {

/// A sequence that has no more room than this for its next tokens wants a page soon.
constexpr int64_t kSoonTokens = 16;
/// A template ends a prompt by a few tokens that the next turn of a conversation may not repeat
/// (the header of the answer, an empty block of thoughts): the state before them is kept as well.
constexpr int64_t kHeaderTokens = 16;

template <class T>
int64_t place(std::vector<std::optional<T>>& all, std::vector<int64_t>& free, T&& value) {
  if (free.empty()) {
    all.emplace_back(std::forward<T>(value));
    return std::ssize(all) - 1;
  }
  const int64_t handle = free.back();
  free.pop_back();
  all[static_cast<size_t>(handle)] = std::forward<T>(value);
  return handle;
}

}  // namespace

int64_t pages_of_group(int64_t prompt_tokens, int64_t max_new_tokens, int64_t page_tokens) {
  return (prompt_tokens + max_new_tokens + page_tokens - 1) / page_tokens + 1;
}

Scheduler::Scheduler(const SchedulerLimits& limits)
    : limits_(limits),
      pages_(limits.num_pages),
      slots_(limits.num_slots),
      prefixes_(pages_, slots_, limits.page_tokens, limits.needs_states) {
  LOCKSTEP_CHECK(limits.max_num_seqs >= 1 && limits.page_tokens >= 1 && limits.max_step_tokens >= 1,
                 "limits of {} sequences, {} tokens a page, {} tokens a step", limits.max_num_seqs,
                 limits.page_tokens, limits.max_step_tokens);
}

int64_t Scheduler::add(Group group) {
  const int64_t prompt = std::ssize(group.prompt);
  LOCKSTEP_CHECK(prompt >= 1 && group.max_new_tokens >= 1 && group.num_samples >= 1,
                 "a group of {} prompt tokens, {} new tokens, {} samples", prompt,
                 group.max_new_tokens, group.num_samples);
  const int64_t most = pages_of_group(prompt, group.max_new_tokens, limits_.page_tokens);
  LOCKSTEP_CHECK(most <= pages_.capacity() && slots_.capacity() >= 2,
                 "a group needs {} pages of {}, 2 slots of {}", most, pages_.capacity(),
                 slots_.capacity());
  GroupState state{.group = std::move(group), .order = ++groups_added_};
  state.space = limits_.keeps_prefixes ? state.group.space : state.order;
  const int64_t handle = place(groups_, free_groups_, std::move(state));
  waiting_.push_back(handle);
  return handle;
}

int64_t Scheduler::num_waiting() const {
  return std::ssize(preempted_) + std::count_if(waiting_.begin(), waiting_.end(), [&](int64_t g) {
           return groups_[static_cast<size_t>(g)]->started == 0;
         });
}

int32_t Scheduler::take_page() {
  for (;;) {
    if (const auto page = pages_.allocate()) return *page;
    if (!prefixes_.evict_page()) return 0;
  }
}

int32_t Scheduler::take_slot() {
  for (;;) {
    if (const auto slot = slots_.allocate()) return *slot;
    if (!prefixes_.evict_state()) return 0;
  }
}

int64_t Scheduler::new_sequence(int64_t handle) {
  GroupState& state = *groups_[static_cast<size_t>(handle)];
  Sequence sequence;
  sequence.group = handle;
  sequence.sample = state.started;
  sequence.tokens = state.group.prompt;
  sequence.prompt_tokens = std::ssize(state.group.prompt);
  sequence.order = state.order;
  return place(sequences_, free_sequences_, std::move(sequence));
}

/// How many prompt tokens of running sequences are left to compute.
int64_t Scheduler::pending_tokens() const {
  int64_t tokens = 0;
  for (const int64_t handle : running_)
    if (sequence(handle).left() > 1) tokens += sequence(handle).left();
  return tokens;
}

std::vector<Start> Scheduler::start(bool begun_only) {
  std::vector<Start> starts;
  while (!preempted_.empty() && num_running() < limits_.max_num_seqs &&
         pending_tokens() < limits_.max_step_tokens) {
    const auto made = try_start(preempted_.front());
    if (!made) return starts;
    preempted_.erase(preempted_.begin());
    starts.push_back(*made);
  }
  // Samples whose prompt is being computed have their places among the running ones.
  int64_t promised = 0;
  for (size_t i = 0; i < waiting_.size();) {
    const int64_t handle = waiting_[i];
    GroupState& group = *groups_[static_cast<size_t>(handle)];
    const int64_t unstarted = group.group.num_samples - group.started;
    if (group.leader >= 0 || (begun_only && !group.started)) {
      promised += group.leader >= 0 ? unstarted : 0;
      ++i;
      continue;
    }
    if (num_running() + promised >= limits_.max_num_seqs ||
        pending_tokens() >= limits_.max_step_tokens)
      break;
    const int64_t sequence = new_sequence(handle);
    const auto made = try_start(sequence);
    if (!made) {
      sequences_[static_cast<size_t>(sequence)].reset();
      free_sequences_.push_back(sequence);
      break;
    }
    starts.push_back(*made);
    ++group.started;
    ++group.alive;
    if (group.started < group.group.num_samples) {
      if (!made->is_whole) group.leader = sequence;
      continue;
    }
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    // Nobody will look for the prompt any more.
    if (!limits_.keeps_prefixes) prefixes_.drop(group.space);
  }
  return starts;
}

void Scheduler::release(const cache::PrefixCache::Match& match) {
  for (const int32_t page : match.pages) pages_.release(page);
  if (match.tail) pages_.release(match.tail);
  if (match.state) slots_.release(match.state);
}

/// How many pages running sequences want within a few steps. They are left to them, so that a new
/// sequence is not preempted as soon as it has started.
int64_t Scheduler::pages_wanted_soon() const {
  int64_t pages = 0;
  for (const int64_t handle : running_) {
    const Sequence& other = sequence(handle);
    const int64_t most =
        other.prompt_tokens + groups_[static_cast<size_t>(other.group)]->group.max_new_tokens;
    const int64_t soon = std::min(std::ssize(other.tokens) + kSoonTokens, most);
    pages += std::max<int64_t>(0, pages_for(soon) - std::ssize(other.pages));
  }
  return pages;
}

/// Gives a sequence a slot and what was found, if there is room for all of its tokens.
bool Scheduler::admit(Sequence& sequence, Start& start, const cache::PrefixCache::Match& match) {
  const int64_t wanted = pages_for(std::ssize(sequence.tokens)) - std::ssize(match.pages);
  if (pages_.num_free() + pages_.num_idle() < wanted + pages_wanted_soon()) return false;
  sequence.slot = take_slot();
  if (!sequence.slot) return false;
  sequence.pages = match.pages;
  if (match.tail) sequence.pages.push_back(take_page());
  sequence.computed = match.tokens;
  sequence.branch = match.known_tokens;
  start.cached_tokens = match.tokens;
  start.copied_page = match.tail;
  start.copied_slot = match.state;
  start.is_whole = match.is_whole;
  return true;
}

std::optional<Start> Scheduler::try_start(int64_t handle) {
  Sequence& sequence = *sequences_[static_cast<size_t>(handle)];
  const GroupState& group = group_of(sequence);
  Start start;
  start.sequence = handle;
  cache::PrefixCache::Match match;
  // The other samples of a group find what the first one computed.
  if (!group.group.computes_prompt || sequence.sample > 0)
    match = prefixes_.find(group.space, sequence.tokens);
  if (!admit(sequence, start, match)) {
    release(match);
    // What was found may itself stand in the way, where a single sequence has hardly room.
    if (!running_.empty() || !admit(sequence, start, match = {})) return {};
  }
  queries_ += std::ssize(sequence.tokens);
  hits_ += match.tokens;
  // The pages are the sequence's now; what is copied stays until then.
  match.pages.clear();
  copied_.push_back(std::move(match));
  run(handle);
  return start;
}

void Scheduler::run(int64_t handle) {
  Sequence& sequence = *sequences_[static_cast<size_t>(handle)];
  sequence.is_running = true;
  insert_in_order(running_, handle);
}

/// Inserts a sequence behind those that came before it.
void Scheduler::insert_in_order(std::vector<int64_t>& list, int64_t handle) const {
  const auto arrival = [&](int64_t other) {
    return std::pair(sequence(other).order, sequence(other).sample);
  };
  list.insert(std::lower_bound(list.begin(), list.end(), handle,
                               [&](int64_t a, int64_t b) { return arrival(a) < arrival(b); }),
              handle);
}

/// Sees to it that a sequence has a page for its next token, at the cost of younger ones. False if
/// it was the youngest and has been preempted itself.
bool Scheduler::has_page(Sequence& sequence) {
  while (std::ssize(sequence.pages) * limits_.page_tokens <= sequence.computed) {
    if (const int32_t page = take_page()) {
      sequence.pages.push_back(page);
      continue;
    }
    const int64_t youngest = running_.back();
    const bool is_itself = &*sequences_[static_cast<size_t>(youngest)] == &sequence;
    LOCKSTEP_CHECK(!is_itself || running_.size() > 1, "a sequence alone has no room: {} pages",
                   pages_.capacity());
    preempt(youngest);
    if (is_itself) return false;
  }
  return true;
}

/// The last full page before the header that ends a prompt.
int64_t Scheduler::kept_boundary(const Sequence& sequence) const {
  return (sequence.prompt_tokens - kHeaderTokens) / limits_.page_tokens * limits_.page_tokens;
}

/// How many tokens of a sequence the step computes, if `budget` are left: to the next place where
/// the state is kept.
int64_t Scheduler::chunk_of(const Sequence& sequence, int64_t budget) const {
  int64_t end = std::min(std::ssize(sequence.tokens), sequence.computed + budget);
  if (limits_.keeps_prefixes && limits_.needs_states) {
    const int64_t interval = limits_.state_interval;
    end = std::min(end, (sequence.computed / interval + 1) * interval);
    for (const int64_t stop : {sequence.branch, kept_boundary(sequence), sequence.prompt_tokens})
      if (sequence.computed < stop) end = std::min(end, stop);
  }
  return end - sequence.computed;
}

std::vector<Work> Scheduler::plan(int64_t prefill_tokens) {
  for (const auto& match : copied_) release(match);
  copied_.clear();
  std::vector<Work> works, decodes;
  const auto work_of = [&](int64_t handle, int64_t count) {
    const Sequence& sequence = this->sequence(handle);
    return Work{handle, sequence.computed, count, sequence.left() == count};
  };
  // Those that are preempted stand behind the one that asks, or are that one.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *sequences_[static_cast<size_t>(running_[i])];
    if (sequence.left() == 1 && has_page(sequence)) decodes.push_back(work_of(running_[i], 1));
  }
  int64_t budget =
      std::min(limits_.max_step_tokens - std::ssize(decodes), std::max<int64_t>(1, prefill_tokens));
  for (const int64_t handle : running_) {
    Sequence& sequence = *sequences_[static_cast<size_t>(handle)];
    if (sequence.left() <= 1) continue;
    if (budget <= 0) break;
    int64_t count = chunk_of(sequence, budget);
    while (std::ssize(sequence.pages) * limits_.page_tokens < sequence.computed + count) {
      const int32_t page = take_page();
      if (page)
        sequence.pages.push_back(page);
      else
        count = std::ssize(sequence.pages) * limits_.page_tokens - sequence.computed;
    }
    if (count <= 0) continue;
    works.push_back(work_of(handle, count));
    budget -= count;
  }
  works.insert(works.end(), decodes.begin(), decodes.end());
  if (works.empty() && !running_.empty()) {
    LOCKSTEP_CHECK(running_.size() > 1, "a sequence alone has no room: {} pages",
                   pages_.capacity());
    preempt(running_.back());
    return plan(prefill_tokens);
  }
  return works;
}

/// Whether the state behind what was computed is worth a slot.
bool Scheduler::keeps_state(const Sequence& sequence) const {
  const GroupState& group = *groups_[static_cast<size_t>(sequence.group)];
  if (sequence.computed == sequence.prompt_tokens)
    return limits_.keeps_prefixes || group.started < group.group.num_samples;
  return limits_.keeps_prefixes && limits_.needs_states &&
         (sequence.computed % limits_.state_interval == 0 ||
          sequence.computed == kept_boundary(sequence) || sequence.computed == sequence.branch);
}

std::optional<Snapshot> Scheduler::computed(const Work& work) {
  Sequence& sequence = *sequences_[static_cast<size_t>(work.sequence)];
  GroupState& group = group_of(sequence);
  sequence.computed += work.count;
  if (group.leader == work.sequence && sequence.computed >= sequence.prompt_tokens)
    group.leader = -1;
  const bool keeps = keeps_state(sequence);
  const bool fills_page =
      work.first / limits_.page_tokens != sequence.computed / limits_.page_tokens;
  if (!keeps && !(limits_.keeps_prefixes && fills_page)) return {};
  Snapshot snapshot{.from = sequence.slot,
                    .to = keeps ? take_slot() : 0,
                    .ends_prompt = sequence.computed == sequence.prompt_tokens};
  const bool is_taken = prefixes_.insert(
      group.space, std::span(sequence.tokens).first(static_cast<size_t>(sequence.computed)),
      sequence.pages, snapshot.to, snapshot.ends_prompt);
  if (snapshot.to) slots_.release(snapshot.to);
  if (!is_taken) return {};
  return snapshot;
}

void Scheduler::append(int64_t handle, int64_t token) {
  sequences_[static_cast<size_t>(handle)]->tokens.push_back(token);
}

/// Gives back what a sequence holds. What it computed stays in the cache if prefixes are kept.
void Scheduler::free_memory(Sequence& sequence, bool keeps_prefix) {
  if (keeps_prefix && limits_.keeps_prefixes && sequence.computed > 0)
    prefixes_.insert(group_of(sequence).space,
                     std::span(sequence.tokens).first(static_cast<size_t>(sequence.computed)),
                     sequence.pages, sequence.slot);
  for (const int32_t page : sequence.pages) pages_.release(page);
  slots_.release(sequence.slot);
  sequence.pages.clear();
  sequence.slot = 0;
  sequence.computed = 0;
  sequence.is_running = false;
}

void Scheduler::preempt(int64_t handle, bool keeps_prefix) {
  Sequence& sequence = *sequences_[static_cast<size_t>(handle)];
  running_.erase(std::find(running_.begin(), running_.end(), handle));
  free_memory(sequence, keeps_prefix);
  insert_in_order(preempted_, handle);
  ++preemptions_;
}

void Scheduler::preempt_all(bool keeps_prefixes) {
  while (!running_.empty()) preempt(running_.back(), keeps_prefixes);
}

void Scheduler::finish(int64_t handle) {
  Sequence& sequence = *sequences_[static_cast<size_t>(handle)];
  auto& list = sequence.is_running ? running_ : preempted_;
  const auto found = std::find(list.begin(), list.end(), handle);
  LOCKSTEP_CHECK(found != list.end(), "sequence {} is not in work", handle);
  list.erase(found);
  if (sequence.is_running) free_memory(sequence, /*keeps_prefix=*/true);
  --group_of(sequence).alive;
  forget_group(sequence.group);
  sequences_[static_cast<size_t>(handle)].reset();
  free_sequences_.push_back(handle);
}

/// Frees the handle of a group that has nothing left.
void Scheduler::forget_group(int64_t handle) {
  const GroupState& group = *groups_[static_cast<size_t>(handle)];
  if (group.alive || group.started < group.group.num_samples) return;
  groups_[static_cast<size_t>(handle)].reset();
  free_groups_.push_back(handle);
}

int64_t Scheduler::cancel_waiting(int64_t handle) {
  GroupState& group = *groups_[static_cast<size_t>(handle)];
  const int64_t unstarted = group.group.num_samples - group.started;
  if (!unstarted) return 0;
  std::erase(waiting_, handle);
  group.started = group.group.num_samples;
  if (!limits_.keeps_prefixes) prefixes_.drop(group.space);
  forget_group(handle);
  return unstarted;
}

void Scheduler::forget_prefixes() { prefixes_.clear(); }

}  // namespace lockstep::rollout
