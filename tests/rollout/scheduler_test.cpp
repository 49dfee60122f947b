// The scheduler driven to the end by random groups, against a naive record of who owns what.
// SPDX-License-Identifier: Apache-2.0
#include "rollout/scheduler.h"

#include <cstdlib>
#include <map>
#include <random>
#include <set>

#include "tests/support/expect_error.h"
#include "tests/support/test_seed.h"

namespace lockstep::rollout {
namespace {

/// A prompt waiting to branch, or a running sequence; owners of pages and slots.
struct Owner {
  int64_t group = 0;
  int32_t slot = 0;
  std::vector<int32_t> pages;
};

/// Plays the engine without a model: samples end after a random number of tokens.
class Driver {
 public:
  Driver(const SchedulerLimits& limits, std::vector<GroupSpec> groups, uint64_t seed)
      : limits_(limits), groups_(std::move(groups)), scheduler_(limits), random_(seed) {
    for (const auto& group : groups_) scheduler_.add(group);
    started_.resize(groups_.size());
  }

  /// Runs everything; false where it got stuck. `history` tells what happened, in order.
  bool run() {
    while (scheduler_.has_work()) {
      if (!start_branches()) return false;
      if (!step()) return false;
      check();
      if (::testing::Test::HasFatalFailure()) return false;
    }
    check();
    return true;
  }

  std::string history;
  int64_t samples_done = 0, most_running = 0;
  const Scheduler& scheduler() const { return scheduler_; }

 private:
  bool start_branches() {
    for (;;) {
      const auto branches = scheduler_.branch();
      if (branches.empty()) return true;
      for (const Branch& branch : branches) take(branch);
      check();
      // The first token may already be the last.
      for (const Branch& branch : branches) draw_token(branch.sequence);
      check();
      if (::testing::Test::HasFatalFailure()) return false;
    }
  }

  void take(const Branch& branch) {
    history += fmt::format("b{}.{}={} ", branch.group, branch.sample, branch.sequence);
    const GroupSpec& spec = groups_[static_cast<size_t>(branch.group)];
    const RunningSequence& sequence = scheduler_.sequence(branch.sequence);
    const Owner& prompt = prompts_.at(branch.group);
    ASSERT_EQ(branch.sample, started_[static_cast<size_t>(branch.group)]++);
    ASSERT_EQ(sequence.length, spec.prompt_tokens);
    const auto shared = static_cast<size_t>(spec.prompt_tokens / limits_.page_tokens);
    for (size_t i = 0; i < shared; ++i) ASSERT_EQ(sequence.pages[i], prompt.pages[i]);
    const bool is_last = branch.sample + 1 == spec.num_samples;
    if (is_last) {
      ASSERT_FALSE(branch.copy_page || branch.copy_slot);
      ASSERT_EQ(sequence.slot, prompt.slot);
      for (size_t i = 0; i < prompt.pages.size(); ++i)
        ASSERT_EQ(sequence.pages[i], prompt.pages[i]);
    } else {
      ASSERT_TRUE(branch.copy_slot);
      ASSERT_EQ(*branch.copy_slot, std::pair(prompt.slot, sequence.slot));
      ASSERT_EQ(branch.copy_page.has_value(), prompt.pages.size() > shared);
      if (branch.copy_page) {
        ASSERT_EQ(*branch.copy_page, std::pair(prompt.pages[shared], sequence.pages[shared]));
      }
    }
    sequences_[branch.sequence] = {branch.group, sequence.slot, sequence.pages};
    if (is_last) prompts_.erase(branch.group);
    most_running = std::max(most_running, scheduler_.num_running());
  }

  bool step() {
    const auto prefills = scheduler_.start_prefills();
    const auto running = scheduler_.running();
    if (prefills.empty() && running.empty()) {
      EXPECT_FALSE(scheduler_.has_work()) << "stuck after " << history;
      return !scheduler_.has_work();
    }
    int64_t tokens = 0;
    for (const Prefill& prefill : prefills) {
      history += fmt::format("p{} ", prefill.group);
      EXPECT_EQ(prefill.group, next_group_++);
      prompts_[prefill.group] = {prefill.group, prefill.slot, prefill.pages};
      tokens += groups_[static_cast<size_t>(prefill.group)].prompt_tokens;
    }
    EXPECT_TRUE(prefills.size() <= 1 || tokens <= limits_.max_prefill_tokens);
    check();
    for (const Prefill& prefill : prefills) scheduler_.prefill_done(prefill.group);
    for (const int64_t handle : running) {
      ++scheduler_.sequence(handle).length;
      draw_token(handle);
    }
    return true;
  }

  void draw_token(int64_t handle) {
    const RunningSequence& sequence = scheduler_.sequence(handle);
    const GroupSpec& spec = groups_[static_cast<size_t>(sequence.group)];
    EXPECT_LE(sequence.length, static_cast<int64_t>(sequence.pages.size()) * limits_.page_tokens);
    if (++drawn_[handle] < spec.max_new_tokens && random_() % 6) return;
    scheduler_.finish(handle);
    sequences_.erase(handle);
    history += fmt::format("f{} ", handle);
    ++samples_done;
  }

  /// No leak, no double owner but of shared prompt pages, counts add up.
  void check() {
    std::map<int32_t, std::vector<std::pair<const Owner*, size_t>>> page_owners;
    std::set<int32_t> slots;
    int64_t owners = 0;
    for (const auto* map : {&prompts_, &sequences_}) {
      for (const auto& [key, owner] : *map) {
        ++owners;
        ASSERT_TRUE(slots.insert(owner.slot).second) << "slot " << owner.slot << " has two owners";
        ASSERT_GE(owner.slot, 1);
        for (size_t i = 0; i < owner.pages.size(); ++i)
          page_owners[owner.pages[i]].push_back({&owner, i});
      }
    }
    ASSERT_EQ(scheduler_.slots_in_use(), owners);
    ASSERT_EQ(scheduler_.pages_in_use(), static_cast<int64_t>(page_owners.size()));
    ASSERT_EQ(scheduler_.num_running(), static_cast<int64_t>(sequences_.size()));
    ASSERT_LE(scheduler_.num_running(), limits_.max_num_seqs);
    for (const auto& [page, holders] : page_owners) {
      ASSERT_GE(page, 1);
      const auto& [first, place] = holders[0];
      const int64_t full_pages =
          groups_[static_cast<size_t>(first->group)].prompt_tokens / limits_.page_tokens;
      for (const auto& [owner, index] : holders) {
        ASSERT_EQ(owner->group, first->group) << "page " << page;
        ASSERT_EQ(index, place) << "page " << page;
      }
      ASSERT_TRUE(holders.size() == 1 || static_cast<int64_t>(place) < full_pages)
          << "page " << page;
    }
  }

  SchedulerLimits limits_;
  std::vector<GroupSpec> groups_;
  Scheduler scheduler_;
  std::mt19937_64 random_;
  std::map<int64_t, Owner> prompts_, sequences_;
  std::map<int64_t, int64_t> drawn_;
  std::vector<int64_t> started_;
  int64_t next_group_ = 0;
};

struct Case {
  SchedulerLimits limits;
  std::vector<GroupSpec> groups;
};

Case random_case(uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto draw = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
  };
  Case made;
  made.limits.page_tokens = draw(1, 9);
  made.limits.max_num_seqs = draw(1, 7);
  made.limits.max_prefill_tokens = draw(1, 60);
  made.limits.num_slots = draw(2, 9);
  int64_t least = 1;
  for (int64_t i = draw(1, 12); i > 0; --i) {
    const GroupSpec group{draw(1, 30), draw(1, 20), draw(1, 6)};
    made.groups.push_back(group);
    const auto pages = [&](int64_t tokens) {
      return (tokens + made.limits.page_tokens - 1) / made.limits.page_tokens;
    };
    least = std::max(least, pages(group.prompt_tokens) +
                                pages(group.prompt_tokens + group.max_new_tokens) -
                                group.prompt_tokens / made.limits.page_tokens);
  }
  // Half of the cases have no page more than the largest group needs.
  made.limits.num_pages = random() % 2 ? least : least + draw(1, 60);
  return made;
}

TEST(Scheduler, RunsRandomGroupsToTheEndWithoutLeaksOrDeadlocks) {
  for (uint64_t draw = 1; draw <= 500; ++draw) {
    SCOPED_TRACE(draw);
    const uint64_t seed = testing::test_seed(draw);
    const Case made = random_case(seed);
    Driver driver(made.limits, made.groups, seed);
    ASSERT_TRUE(driver.run());
    int64_t samples = 0;
    for (const auto& group : made.groups) samples += group.num_samples;
    ASSERT_EQ(driver.samples_done, samples);
    ASSERT_EQ(driver.scheduler().pages_in_use(), 0);
    ASSERT_EQ(driver.scheduler().slots_in_use(), 0);
  }
}

TEST(Scheduler, TheSameGroupsGiveTheSameOrder) {
  for (uint64_t draw = 1; draw <= 50; ++draw) {
    SCOPED_TRACE(draw);
    const uint64_t seed = testing::test_seed(draw);
    const Case made = random_case(seed);
    Driver first(made.limits, made.groups, seed), second(made.limits, made.groups, seed);
    ASSERT_TRUE(first.run() && second.run());
    ASSERT_EQ(first.history, second.history);
  }
}

TEST(Scheduler, FillsTheBatchWhereMemoryAllows) {
  const SchedulerLimits limits{
      .max_num_seqs = 6, .page_tokens = 4, .num_pages = 100, .num_slots = 20};
  Driver driver(limits, {{5, 50, 4}, {5, 50, 4}}, 1);
  ASSERT_TRUE(driver.run());
  EXPECT_EQ(driver.most_running, 6);
}

TEST(Scheduler, RefusesAGroupThatCanNeverFit) {
  Scheduler scheduler({.page_tokens = 4, .num_pages = 3, .num_slots = 2});
  EXPECT_ERROR(scheduler.add({5, 8, 1}), InternalError, "internal", "needs");
  EXPECT_ERROR(scheduler.add({1, 0, 1}), InternalError, "internal", "0 new tokens");
  EXPECT_EQ(scheduler.add({4, 4, 1}), 0);
}

TEST(Scheduler, FinishingTwiceIsAnError) {
  Scheduler scheduler({.page_tokens = 4, .num_pages = 8, .num_slots = 4});
  scheduler.add({3, 4, 1});
  scheduler.start_prefills();
  scheduler.prefill_done(0);
  const auto branches = scheduler.branch();
  ASSERT_EQ(branches.size(), 1u);
  scheduler.finish(branches[0].sequence);
  EXPECT_ERROR(scheduler.finish(branches[0].sequence), InternalError, "internal", "is not running");
}

}  // namespace
}  // namespace lockstep::rollout
