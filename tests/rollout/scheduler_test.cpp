// The scheduler driven to the end by random groups, against a naive record of what lies where.
// SPDX-License-Identifier: Apache-2.0
#include "rollout/scheduler.h"

#include <map>
#include <random>
#include <set>

#include "tests/support/expect_error.h"
#include "tests/support/test_seed.h"

namespace lockstep::rollout {
namespace {

using Tokens = std::vector<int64_t>;

/// Plays the engine without a model. What a model would compute for a token is here the list of all
/// tokens up to it: pages hold such lists, one for each token, and slots the list behind which the
/// state lies. So every page and slot that a sequence reads can be compared with what it must hold.
class Driver {
 public:
  Driver(const SchedulerLimits& limits, uint64_t seed)
      : limits_(limits),
        scheduler_(limits),
        random_(seed),
        pages_(static_cast<size_t>(limits.num_pages) + 1),
        slots_(static_cast<size_t>(limits.num_slots) + 1) {
    for (auto& page : pages_) page.resize(static_cast<size_t>(limits.page_tokens));
  }

  int64_t add(const Group& group) {
    const int64_t handle = scheduler_.add(group);
    EXPECT_FALSE(groups_.contains(handle)) << "the handle of a live group";
    groups_[handle] = {group, 0, 0};
    return handle;
  }

  /// One step; false where nothing was done though there is work.
  bool step(bool begun_only = false) {
    const int64_t before = done_;
    start(begun_only);
    if (::testing::Test::HasFatalFailure()) return false;
    const auto works = scheduler_.plan(prefill_tokens);
    check_plan(works);
    for (const Work& work : works) compute(work);
    for (const Work& work : works) finish_work(work);
    check_memory();
    return !works.empty() || done_ > before || !scheduler_.has_work();
  }

  /// Ends a request as an abort does.
  void abort(int64_t group) {
    scheduler_.cancel_waiting(group);
    std::vector<int64_t> own;
    for (const auto& [handle, sample] : alive_)
      if (sample.first == group) own.push_back(handle);
    for (const int64_t handle : own) end(handle);
    groups_.erase(group);
  }

  std::vector<int64_t> live_groups() const {
    std::vector<int64_t> handles;
    for (const auto& [handle, group] : groups_) handles.push_back(handle);
    return handles;
  }
  Scheduler& scheduler() { return scheduler_; }
  int64_t prefill_tokens = 1 << 20;
  bool ends_at_random = true;
  /// How many tokens were computed.
  int64_t computed_tokens = 0;
  int64_t completions() const { return done_; }

 private:
  struct LiveGroup {
    Group group;
    int64_t started = 0, ended = 0;
  };

  void start(bool begun_only) {
    for (const Start& start : scheduler_.start(begun_only)) {
      const Sequence& sequence = scheduler_.sequence(start.sequence);
      LiveGroup& group = groups_.at(sequence.group);
      if (!alive_.contains(start.sequence)) {
        ASSERT_EQ(sequence.sample, group.started++) << "samples start in order";
        ASSERT_EQ(sequence.tokens, group.group.prompt);
        alive_[start.sequence] = {sequence.group, sequence.sample};
      }
      ASSERT_EQ(sequence.computed, start.cached_tokens);
      ASSERT_TRUE(!group.group.computes_prompt || sequence.sample || !sequence.computed);
      if (start.copied_page)
        pages_[static_cast<size_t>(sequence.pages.back())] =
            pages_[static_cast<size_t>(start.copied_page)];
      // As the engine: a sequence that finds nothing starts with a cleared slot.
      slots_[static_cast<size_t>(sequence.slot)] =
          start.copied_slot ? slots_[static_cast<size_t>(start.copied_slot)] : Tokens{};
      if (limits_.needs_states || start.is_whole) check_slot(sequence);
      check_pages(sequence);
      if (start.is_whole) {
        ASSERT_EQ(sequence.left(), 0);
        ASSERT_TRUE(ends_prompt_.contains(start.copied_slot)) << "nothing to draw from";
        draw(start.sequence);
      }
    }
  }

  Tokens beginning(const Sequence& sequence, int64_t count) const {
    return {sequence.tokens.begin(), sequence.tokens.begin() + count};
  }
  void check_slot(const Sequence& sequence) const {
    ASSERT_EQ(slots_[static_cast<size_t>(sequence.slot)], beginning(sequence, sequence.computed));
  }
  void check_pages(const Sequence& sequence) const {
    for (int64_t t = 0; t < sequence.computed; ++t) {
      const auto page =
          static_cast<size_t>(sequence.pages[static_cast<size_t>(t / limits_.page_tokens)]);
      ASSERT_EQ(pages_[page][static_cast<size_t>(t % limits_.page_tokens)],
                beginning(sequence, t + 1))
          << "token " << t;
    }
  }

  void check_plan(const std::vector<Work>& works) const {
    int64_t tokens = 0, prefilled = 0;
    std::set<int64_t> seen;
    bool decodes = false;
    for (const Work& work : works) {
      const Sequence& sequence = scheduler_.sequence(work.sequence);
      EXPECT_TRUE(seen.insert(work.sequence).second);
      EXPECT_TRUE(sequence.is_running);
      EXPECT_EQ(work.first, sequence.computed);
      EXPECT_GE(work.count, 1);
      EXPECT_EQ(work.draws, work.first + work.count == std::ssize(sequence.tokens));
      EXPECT_LE(work.first + work.count, std::ssize(sequence.pages) * limits_.page_tokens);
      const bool is_decode = sequence.left() == 1;
      EXPECT_TRUE(is_decode || !decodes) << "prompts come first";
      decodes |= is_decode;
      tokens += work.count;
      prefilled += is_decode ? 0 : work.count;
    }
    EXPECT_LE(tokens, std::max(limits_.max_step_tokens, scheduler_.num_running()));
    EXPECT_LE(prefilled, std::max<int64_t>(1, prefill_tokens));
    EXPECT_LE(scheduler_.num_running(), limits_.max_num_seqs);
    // None that decodes stands still unless it was preempted.
    for (const int64_t handle : scheduler_.running())
      EXPECT_TRUE(scheduler_.sequence(handle).left() > 1 || seen.contains(handle));
  }

  void compute(const Work& work) {
    const Sequence& sequence = scheduler_.sequence(work.sequence);
    check_pages(sequence);
    if (limits_.needs_states) check_slot(sequence);
    for (int64_t t = work.first; t < work.first + work.count; ++t) {
      const int32_t page = sequence.pages[static_cast<size_t>(t / limits_.page_tokens)];
      // Nobody else reads what is written now.
      for (const auto& [other, sample] : alive_) {
        const Sequence& its = scheduler_.sequence(other);
        if (other == work.sequence || !its.is_running) continue;
        for (size_t i = 0; i < its.pages.size(); ++i) {
          const int64_t row =
              static_cast<int64_t>(i) * limits_.page_tokens + t % limits_.page_tokens;
          ASSERT_TRUE(its.pages[i] != page || its.computed <= row);
        }
      }
      pages_[static_cast<size_t>(page)][static_cast<size_t>(t % limits_.page_tokens)] =
          beginning(sequence, t + 1);
    }
    slots_[static_cast<size_t>(sequence.slot)] = beginning(sequence, work.first + work.count);
    computed_tokens += work.count;
  }

  void finish_work(const Work& work) {
    if (const auto snapshot = scheduler_.computed(work)) {
      slots_[static_cast<size_t>(snapshot->to)] = slots_[static_cast<size_t>(snapshot->from)];
      if (snapshot->ends_prompt)
        ends_prompt_.insert(snapshot->to);
      else
        ends_prompt_.erase(snapshot->to);
    }
    if (work.draws) draw(work.sequence);
  }

  /// A token that depends on the sequence alone, so that a preempted one draws the same again.
  void draw(int64_t handle) {
    const Sequence& sequence = scheduler_.sequence(handle);
    const Group& group = groups_.at(sequence.group).group;
    const int64_t token = std::ssize(sequence.tokens) % 5 + 3 * sequence.sample;
    scheduler_.append(handle, token);
    const int64_t drawn = std::ssize(sequence.tokens) - sequence.prompt_tokens;
    if (drawn >= group.max_new_tokens || (ends_at_random && random_() % 16 == 0)) end(handle);
  }

  void end(int64_t handle) {
    const int64_t index = alive_.at(handle).first;
    LiveGroup& group = groups_.at(index);
    scheduler_.finish(handle);
    alive_.erase(handle);
    ++done_;
    if (++group.ended == group.group.num_samples) groups_.erase(index);
  }

  void check_memory() const {
    std::map<int32_t, int> pages, slots;
    for (const auto& [handle, sample] : alive_) {
      const Sequence& sequence = scheduler_.sequence(handle);
      if (!sequence.is_running) {
        EXPECT_TRUE(sequence.pages.empty() && !sequence.slot);
        continue;
      }
      for (const int32_t page : sequence.pages) ++pages[page];
      EXPECT_EQ(slots[sequence.slot]++, 0) << "two sequences in one slot";
    }
    const auto check = [](const cache::BlockPool& pool, const std::map<int32_t, int>& held) {
      int64_t cached_only = 0;
      for (int32_t id = 1; id <= pool.capacity(); ++id) {
        const auto found = held.find(id);
        const int own = found == held.end() ? 0 : found->second;
        EXPECT_GE(pool.holders(id), own);
        cached_only += pool.holders(id) > 0 && own == 0;
      }
      EXPECT_EQ(pool.num_idle(), cached_only);
      EXPECT_EQ(pool.num_free() + cached_only + std::ssize(held), pool.capacity());
    };
    check(scheduler_.pages(), pages);
    check(scheduler_.slots(), slots);
  }

  SchedulerLimits limits_;
  Scheduler scheduler_;
  std::mt19937_64 random_;
  std::vector<std::vector<Tokens>> pages_;
  std::vector<Tokens> slots_;
  std::set<int32_t> ends_prompt_;
  std::map<int64_t, LiveGroup> groups_;
  /// Sequence -> group, sample.
  std::map<int64_t, std::pair<int64_t, int64_t>> alive_;
  int64_t done_ = 0;
};

int64_t draw(std::mt19937_64& random, int64_t low, int64_t high) {
  return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
}

SchedulerLimits some_limits(std::mt19937_64& random) {
  return {.max_num_seqs = draw(random, 1, 9),
          .max_step_tokens = draw(random, 1, 40),
          .page_tokens = draw(random, 1, 6),
          .num_pages = draw(random, 51, 70),
          .num_slots = draw(random, 2, 14),
          .needs_states = random() % 2 == 0,
          .keeps_prefixes = random() % 2 == 0,
          .state_interval = 12};
}

/// Prompts that often begin alike.
Group some_group(std::mt19937_64& random) {
  Group group{.max_new_tokens = draw(random, 1, 20), .num_samples = draw(random, 1, 4)};
  const int64_t length = draw(random, 1, 30), kind = draw(random, 0, 2);
  for (int64_t t = 0; t < length; ++t)
    group.prompt.push_back(t < 3 * kind ? kind : static_cast<int64_t>(random() % 3 == 0));
  group.computes_prompt = random() % 8 == 0;
  return group;
}

TEST(Scheduler, RandomRequestsReadWhatTheyWouldComputeAndLeaveNothingBehind) {
  for (int64_t round = 0; round < 150; ++round) {
    SCOPED_TRACE(round);
    std::mt19937_64 random(testing::test_seed(static_cast<uint64_t>(round)));
    const SchedulerLimits limits = some_limits(random);
    Driver driver(limits, random());
    bool begun_only = false;
    for (int64_t step = 0; step < 300 || driver.scheduler().has_work(); ++step) {
      const bool is_adding = step < 300;
      if (is_adding && random() % 3 == 0) driver.add(some_group(random));
      if (random() % 20 == 0 && !driver.live_groups().empty()) {
        const auto live = driver.live_groups();
        driver.abort(live[random() % live.size()]);
      }
      if (random() % 30 == 0) driver.prefill_tokens = draw(random, 0, 20);
      if (random() % 50 == 0) driver.scheduler().forget_prefixes();
      if (random() % 50 == 0) driver.scheduler().preempt_all(random() % 2 == 0);
      if (random() % 20 == 0) begun_only = is_adding && !begun_only;
      const bool did = driver.step(begun_only && is_adding);
      ASSERT_FALSE(::testing::Test::HasFailure()) << "step " << step;
      ASSERT_TRUE(did || begun_only) << "stuck at step " << step;
      ASSERT_LT(step, 20'000);
    }
    EXPECT_EQ(driver.scheduler().num_waiting(), 0);
    if (limits.keeps_prefixes) driver.scheduler().forget_prefixes();
    EXPECT_EQ(driver.scheduler().pages().num_free(), limits.num_pages);
    EXPECT_EQ(driver.scheduler().slots().num_free(), limits.num_slots);
  }
}

Tokens range(int64_t first, int64_t count) {
  Tokens tokens(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) tokens[static_cast<size_t>(i)] = first + i;
  return tokens;
}

SchedulerLimits roomy(bool needs_states, bool keeps_prefixes) {
  return {.max_num_seqs = 16,
          .num_pages = 200,
          .num_slots = 40,
          .needs_states = needs_states,
          .keeps_prefixes = keeps_prefixes};
}

void run(Driver& driver) {
  while (driver.scheduler().has_work()) ASSERT_TRUE(driver.step());
}

TEST(Scheduler, SamplesShareTheirPrompt) {
  for (const bool needs_states : {false, true}) {
    Driver driver(roomy(needs_states, false), 1);
    driver.add({.prompt = range(0, 200), .max_new_tokens = 1, .num_samples = 8});
    run(driver);
    EXPECT_EQ(driver.computed_tokens, 200);
    EXPECT_EQ(driver.completions(), 8);
  }
}

TEST(Scheduler, AKeptPrefixIsNotComputedAgain) {
  for (const bool needs_states : {false, true}) {
    SCOPED_TRACE(needs_states);
    Driver driver(roomy(needs_states, true), 1);
    const auto computed_for = [&](Tokens prompt) {
      const int64_t before = driver.computed_tokens;
      driver.add({.prompt = std::move(prompt), .max_new_tokens = 1});
      run(driver);
      return driver.computed_tokens - before;
    };
    EXPECT_EQ(computed_for(range(0, 1000)), 1000);
    EXPECT_EQ(computed_for(range(0, 1000)), 0) << "the same prompt";
    Tokens longer = range(0, 1000);
    longer.push_back(7);
    EXPECT_EQ(computed_for(longer), 1) << "a prompt behind it";
    // The full pages up to the last place where a state was kept: 15 of them, 960 tokens.
    Tokens other_end = range(0, 998);
    other_end.push_back(7);
    EXPECT_EQ(computed_for(other_end), 39);
    Tokens early_change = range(0, 700);
    early_change.push_back(7);
    EXPECT_EQ(computed_for(early_change), needs_states ? 701 - 512 : 701 - 640);
    // The second one that leaves there finds the state that the first one left.
    early_change.back() = 8;
    EXPECT_EQ(computed_for(early_change), 701 - 640);
    driver.scheduler().forget_prefixes();
    EXPECT_EQ(computed_for(range(0, 1000)), 1000);
  }
}

TEST(Scheduler, ALongPromptLeavesRoomForThoseThatDecode) {
  Driver driver(roomy(false, false), 1);
  driver.ends_at_random = false;
  driver.prefill_tokens = 10;
  driver.add({.prompt = range(0, 5), .max_new_tokens = 1000});
  driver.step();
  driver.add({.prompt = range(0, 95), .max_new_tokens = 5});
  for (int64_t step = 0; step < 9; ++step) {
    const auto works_before = driver.computed_tokens;
    driver.step();
    EXPECT_EQ(driver.computed_tokens - works_before, 11) << "one token and ten of the prompt";
  }
}

TEST(Scheduler, AFinishedCompletionIsFoundByTheNextTurn) {
  for (const bool needs_states : {false, true}) {
    Driver driver(roomy(needs_states, true), 1);
    driver.ends_at_random = false;
    driver.add({.prompt = range(0, 100), .max_new_tokens = 31});
    run(driver);
    Tokens turn = range(0, 100);
    for (int64_t t = 100; t < 131; ++t) turn.push_back(t % 5);
    turn.push_back(9);
    const int64_t before = driver.computed_tokens;
    driver.add({.prompt = turn, .max_new_tokens = 1});
    run(driver);
    // The last token of the answer was never computed.
    EXPECT_EQ(driver.computed_tokens - before, 2);
  }
}

TEST(Scheduler, WithoutKeptPrefixesGroupsComputeTheirOwn) {
  Driver driver(roomy(false, false), 1);
  for (int i = 0; i < 2; ++i) driver.add({.prompt = range(0, 200), .num_samples = 3});
  run(driver);
  EXPECT_EQ(driver.computed_tokens, 400);
}

TEST(Scheduler, APromptThatIsScoredIsComputedOnceAGroup) {
  Driver driver(roomy(false, true), 1);
  for (int i = 0; i < 2; ++i)
    driver.add({.prompt = range(0, 200), .num_samples = 3, .computes_prompt = true});
  run(driver);
  EXPECT_EQ(driver.computed_tokens, 400);
}

/// Handles of those that start, by the first token of their prompts.
std::vector<int64_t> started(Scheduler& scheduler, bool begun_only = false) {
  std::vector<int64_t> firsts;
  for (const Start& start : scheduler.start(begun_only))
    firsts.push_back(scheduler.sequence(start.sequence).tokens.front());
  return firsts;
}

/// One step in which every sequence draws a token.
void step(Scheduler& scheduler) {
  for (const Work& work : scheduler.plan(1 << 20)) {
    scheduler.computed(work);
    if (work.draws) scheduler.append(work.sequence, 1);
  }
}

TEST(Scheduler, TheYoungestGiveWayAndComeBackBeforeOthersInTheirOrder) {
  SchedulerLimits limits = roomy(false, false);
  limits.num_pages = 6;
  Scheduler scheduler(limits);
  for (const int64_t first : {1000, 2000, 3000})
    scheduler.add({.prompt = range(first, 60), .max_new_tokens = 200});
  EXPECT_EQ(started(scheduler), (std::vector<int64_t>{1000, 2000, 3000}));
  for (int64_t t = 0; t < 140; ++t) step(scheduler);
  // 200 tokens are four pages: the first has them, the second one has what is left.
  ASSERT_EQ(scheduler.num_running(), 1);
  EXPECT_EQ(scheduler.sequence(scheduler.running()[0]).tokens.front(), 1000);
  EXPECT_EQ(std::ssize(scheduler.sequence(scheduler.running()[0]).tokens), 200);
  EXPECT_EQ(scheduler.num_preemptions(), 2);
  scheduler.add({.prompt = range(4000, 1), .max_new_tokens = 1});
  // There would be room for the newest, but those before it come first.
  EXPECT_TRUE(started(scheduler).empty());
  scheduler.finish(scheduler.running()[0]);
  EXPECT_EQ(started(scheduler), std::vector<int64_t>{2000});
  EXPECT_TRUE(started(scheduler).empty());
  scheduler.finish(scheduler.running()[0]);
  EXPECT_EQ(started(scheduler), (std::vector<int64_t>{3000, 4000}));
}

TEST(Scheduler, NoNewGroupStartsWhereOnlyBegunOnesGoOn) {
  SchedulerLimits limits = roomy(false, false);
  limits.max_num_seqs = 2;
  Scheduler scheduler(limits);
  scheduler.add({.prompt = range(1000, 3), .max_new_tokens = 9, .num_samples = 4});
  EXPECT_EQ(started(scheduler), std::vector<int64_t>{1000});
  step(scheduler);
  scheduler.add({.prompt = range(2000, 3), .max_new_tokens = 9});
  EXPECT_EQ(started(scheduler, /*begun_only=*/true), std::vector<int64_t>{1000});
  step(scheduler);
  scheduler.preempt_all(/*keeps_prefixes=*/true);
  EXPECT_EQ(started(scheduler, true), (std::vector<int64_t>{1000, 1000}));
  while (scheduler.num_running()) {
    scheduler.finish(scheduler.running()[0]);
    started(scheduler, true);
  }
  EXPECT_TRUE(started(scheduler, true).empty());
  EXPECT_EQ(started(scheduler), std::vector<int64_t>{2000});
}

TEST(Scheduler, WhatAFailedStepLeftIsNotKept) {
  Scheduler scheduler(roomy(true, true));
  scheduler.add({.prompt = range(0, 100), .max_new_tokens = 9});
  started(scheduler);
  // Up to the last full page that is kept, and then the rest.
  step(scheduler);
  const int64_t pages = scheduler.pages().num_idle(), slots = scheduler.slots().num_idle();
  step(scheduler);
  EXPECT_EQ(scheduler.slots().num_idle(), slots + 1);
  step(scheduler);
  scheduler.plan(1 << 20);
  scheduler.preempt_all(/*keeps_prefixes=*/false);
  EXPECT_EQ(scheduler.pages().num_idle(), pages + 2) << "the prompt's alone";
  EXPECT_EQ(scheduler.slots().num_idle(), slots + 1);
}

TEST(Scheduler, AGroupThatCanNeverFitIsAnError) {
  Scheduler scheduler({.num_pages = 3, .num_slots = 2});
  EXPECT_ERROR(scheduler.add({.prompt = range(0, 129), .max_new_tokens = 1}), InternalError,
               "internal", "a group needs 4 pages of 3");
  EXPECT_EQ(scheduler.add({.prompt = range(0, 127), .max_new_tokens = 1}), 0);
}

}  // namespace
}  // namespace lockstep::rollout
