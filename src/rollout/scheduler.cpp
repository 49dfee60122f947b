// SPDX-License-Identifier: Apache-2.0
#include "rollout/scheduler.h"

#include <algorithm>

#include "base/check.h"

namespace lockstep::rollout {

int64_t pages_of_group(int64_t prompt_tokens, int64_t max_new_tokens, int64_t page_tokens) {
  const auto pages_for = [&](int64_t tokens) { return (tokens + page_tokens - 1) / page_tokens; };
  const int64_t shared = prompt_tokens / page_tokens;
  return pages_for(prompt_tokens) + pages_for(prompt_tokens + max_new_tokens) - shared;
}

Scheduler::Scheduler(const SchedulerLimits& limits)
    : limits_(limits), pages_(limits.num_pages), slots_(limits.num_slots) {
  LOCKSTEP_CHECK(limits.max_num_seqs >= 1 && limits.page_tokens >= 1,
                 "limits of {} sequences, {} tokens a page", limits.max_num_seqs,
                 limits.page_tokens);
}

int64_t Scheduler::add(const GroupSpec& group) {
  LOCKSTEP_CHECK(group.prompt_tokens >= 1 && group.max_new_tokens >= 1 && group.num_samples >= 1,
                 "a group of {} prompt tokens, {} new tokens, {} samples", group.prompt_tokens,
                 group.max_new_tokens, group.num_samples);
  const int64_t most =
      pages_of_group(group.prompt_tokens, group.max_new_tokens, limits_.page_tokens);
  LOCKSTEP_CHECK(most <= pages_.capacity() && slots_.capacity() >= 2,
                 "a group needs {} pages of {}, 2 slots of {}", most, pages_.capacity(),
                 slots_.capacity());
  groups_.push_back({.spec = group});
  waiting_.push_back(static_cast<int64_t>(groups_.size()) - 1);
  return waiting_.back();
}

std::vector<Branch> Scheduler::branch() {
  std::vector<Branch> branches;
  while (!prefilled_.empty() && num_running() < limits_.max_num_seqs) {
    const int64_t group = prefilled_.front();
    const auto made = branch_one(group);
    if (!made) break;
    branches.push_back(*made);
    const Group& of = groups_[static_cast<size_t>(group)];
    if (of.branched == of.spec.num_samples) prefilled_.pop_front();
  }
  return branches;
}

std::optional<Branch> Scheduler::branch_one(int64_t index) {
  Group& group = groups_[static_cast<size_t>(index)];
  const bool takes_over = group.branched + 1 == group.spec.num_samples;
  const int64_t total = pages_for(group.spec.prompt_tokens + group.spec.max_new_tokens);
  const auto shared = static_cast<size_t>(group.spec.prompt_tokens / limits_.page_tokens);
  const bool has_partial = group.pages.size() > shared;
  const int64_t wanted = total - static_cast<int64_t>(takes_over ? group.pages.size() : shared);
  if (pages_.num_free() < wanted || (!takes_over && slots_.num_free() < 1)) return {};

  Branch branch{.group = index,
                .sample = group.branched++,
                .sequence = static_cast<int64_t>(sequences_.size())};
  RunningSequence sequence{
      .group = index, .sample = branch.sample, .length = group.spec.prompt_tokens};
  if (takes_over) {
    sequence.slot = group.slot;
    sequence.pages = std::move(group.pages);
  } else {
    sequence.slot = *slots_.allocate();
    branch.copy_slot = {group.slot, sequence.slot};
    for (size_t i = 0; i < shared; ++i) {
      pages_.retain(group.pages[i]);
      sequence.pages.push_back(group.pages[i]);
    }
  }
  while (static_cast<int64_t>(sequence.pages.size()) < total)
    sequence.pages.push_back(*pages_.allocate());
  if (!takes_over && has_partial) branch.copy_page = {group.pages[shared], sequence.pages[shared]};
  sequences_.push_back(std::move(sequence));
  running_.push_back(branch.sequence);
  return branch;
}

std::vector<Prefill> Scheduler::start_prefills() {
  std::vector<Prefill> prefills;
  int64_t tokens = 0, reserve = 0;
  // A slot, and pages for the first branch of any of these prompts, stay free, so that every step
  // makes progress.
  while (!waiting_.empty() && prefilled_.empty() && num_running() < limits_.max_num_seqs) {
    const int64_t index = waiting_.front();
    Group& group = groups_[static_cast<size_t>(index)];
    const int64_t prompt = group.spec.prompt_tokens;
    if (!prefills.empty() && tokens + prompt > limits_.max_prefill_tokens) break;
    const int64_t shared = prompt / limits_.page_tokens;
    const int64_t first_branch = pages_for(prompt + group.spec.max_new_tokens) - shared;
    if (pages_.num_free() < pages_for(prompt) + std::max(reserve, first_branch) ||
        slots_.num_free() < 2)
      break;
    reserve = std::max(reserve, first_branch);
    group.slot = *slots_.allocate();
    for (int64_t i = 0; i < pages_for(prompt); ++i) group.pages.push_back(*pages_.allocate());
    prefills.push_back({index, group.slot, group.pages});
    tokens += prompt;
    waiting_.pop_front();
  }
  return prefills;
}

void Scheduler::prefill_done(int64_t group) { prefilled_.push_back(group); }

void Scheduler::finish(int64_t handle) {
  auto& sequence = sequences_[static_cast<size_t>(handle)];
  LOCKSTEP_CHECK(sequence.has_value(), "sequence {} is not running", handle);
  for (const int32_t page : sequence->pages) pages_.release(page);
  slots_.release(sequence->slot);
  sequence.reset();
  running_.erase(std::find(running_.begin(), running_.end(), handle));
}

}  // namespace lockstep::rollout
