// SPDX-License-Identifier: Apache-2.0
#include "train/plan.h"

#include <algorithm>
#include <random>

#include <gtest/gtest.h>

#include "tests/support/test_seed.h"

namespace lockstep::train {
namespace {

/// Samples that share nothing.
std::vector<SampleLength> alone(const std::vector<int64_t>& lengths) {
  std::vector<SampleLength> samples;
  for (const int64_t length : lengths) samples.push_back({length, 0});
  return samples;
}

/// [slot, first, last] of each micro-batch.
std::vector<std::vector<int64_t>> cuts_of(const std::vector<MicroBatch>& plan) {
  std::vector<std::vector<int64_t>> cuts;
  for (const MicroBatch& cut : plan) cuts.push_back({cut.slot, cut.first, cut.last});
  return cuts;
}

/// `count` samples of one prompt.
void append_group(std::vector<SampleLength>& lengths, int64_t count, SampleLength sample) {
  for (int64_t i = 0; i < count; ++i)
    lengths.push_back({sample.tokens, i == 0 ? 0 : sample.shared});
}

TEST(Plan, CutsBySlotAndByBudget) {
  // Ten samples: no slot need be longer than 9 tokens; a budget of 8 cuts the one of 9 in two.
  EXPECT_EQ(cuts_of(plan_micro_batches(alone({5, 5, 5, 3, 4, 5, 5, 5, 6, 6}), 8)),
            (std::vector<std::vector<int64_t>>{{0, 0, 1},
                                               {1, 1, 2},
                                               {2, 2, 4},
                                               {3, 4, 5},
                                               {3, 5, 6},
                                               {4, 6, 7},
                                               {5, 7, 8},
                                               {6, 8, 9},
                                               {7, 9, 10}}));
}

TEST(Plan, TheSamplesOfAPromptStayTogetherWithinTheBudget) {
  std::vector<SampleLength> one;
  append_group(one, 8, {576, 512});
  // 512 + 8 * 64 tokens are one micro-batch.
  EXPECT_EQ(cuts_of(plan_micro_batches(one, 4096)), (std::vector<std::vector<int64_t>>{{0, 0, 8}}));
  // A budget of five completions: two slots, each of which computes the prompt.
  EXPECT_EQ(cuts_of(plan_micro_batches(one, 512 + 5 * 64)),
            (std::vector<std::vector<int64_t>>{{0, 0, 5}, {4, 5, 8}}));
  std::vector<SampleLength> two = one;
  append_group(two, 8, {576, 512});
  EXPECT_EQ(cuts_of(plan_micro_batches(two, 4096)),
            (std::vector<std::vector<int64_t>>{{0, 0, 8}, {4, 8, 16}}));
}

TEST(Plan, AsFewGroupsAreCutAsTheLongestSlotAllows) {
  // Nine groups of four in eight slots: two whole groups in a slot would be 2 * (10 + 4 * 90),
  // where a slot of five samples need be no longer than 5 * 90 + 2 * 10.
  std::vector<SampleLength> lengths;
  for (int i = 0; i < 9; ++i) append_group(lengths, 4, {100, 10});
  const auto firsts_of = [&](int64_t budget) {
    std::vector<int64_t> firsts;
    int64_t slot = -1;
    for (const MicroBatch& cut : plan_micro_batches(lengths, budget))
      if (cut.slot != slot) {
        firsts.push_back(cut.first);
        slot = cut.slot;
      }
    return firsts;
  };
  // Four slots of whole groups leave five groups to the other four.
  EXPECT_EQ(firsts_of(100), (std::vector<int64_t>{0, 4, 8, 12, 16, 21, 26, 31}));
  // Room for one and a half: one group is cut.
  EXPECT_EQ(firsts_of(2 * 10 + 6 * 90), (std::vector<int64_t>{0, 4, 8, 12, 16, 20, 24, 30}));
  // A budget of two groups makes whole groups as good.
  for (const int64_t first : firsts_of(2 * (10 + 4 * 90))) EXPECT_EQ(first % 4, 0);
}

TEST(Plan, NoSamplesGiveNoMicroBatches) { EXPECT_TRUE(plan_micro_batches({}, 100).empty()); }

TEST(Plan, ASampleLongerThanTheBudgetIsAlone) {
  const std::vector<int64_t> lengths(16, 50);
  const auto plan = plan_micro_batches(alone(lengths), 49);
  ASSERT_EQ(plan.size(), 16u);
  for (const MicroBatch& cut : plan) EXPECT_EQ(cut.last - cut.first, 1);
}

/// The same samples without what they share.
std::vector<SampleLength> alone_of(std::vector<SampleLength> lengths) {
  for (SampleLength& length : lengths) length.shared = 0;
  return lengths;
}

/// Samples of some prompts, a few of each, or one.
std::vector<SampleLength> draw_lengths(std::mt19937_64& random) {
  const auto below = [&](int64_t end) {
    return static_cast<int64_t>(random() % static_cast<uint64_t>(end));
  };
  std::vector<SampleLength> lengths;
  const int64_t most = 1 + below(9), longest_prompt = 1 + below(60);
  for (int64_t groups = below(14); groups > 0; --groups) {
    const int64_t prompt = 1 + below(longest_prompt), count = 1 + below(most);
    for (int64_t i = 0; i < count; ++i)
      lengths.push_back({prompt + below(30), i == 0 ? 0 : prompt});  // one token: it adds nothing
  }
  return lengths;
}

/// What plans could be, found by trying all.
class AllPlans {
 public:
  explicit AllPlans(const std::vector<SampleLength>& lengths) : lengths_(lengths), added_{0} {
    for (const SampleLength& length : lengths)
      added_.push_back(added_.back() + length.tokens - length.shared);
  }

  int64_t count() const { return std::ssize(lengths_); }
  const SampleLength& at(int64_t i) const { return lengths_[static_cast<size_t>(i)]; }
  bool splits_at(int64_t i) const { return i < count() && at(i).shared > 0; }
  /// Tokens of samples [first, last) behind one another.
  int64_t tokens(int64_t first, int64_t last) const {
    return at(first).shared + added_[static_cast<size_t>(last)] -
           added_[static_cast<size_t>(first)];
  }
  /// Of all cuts into slots, the least tokens of the longest one.
  int64_t shortest() const {
    return best([](int64_t longest, int64_t slot, bool) { return std::max(longest, slot); });
  }
  /// The least number of slots that begin inside a prompt's samples, none longer than `limit`.
  int64_t fewest_splits(int64_t limit) const {
    return best([limit](int64_t splits, int64_t slot, bool does_split) {
      return slot <= limit && splits < kNone ? splits + does_split : kNone;
    });
  }

 private:
  static constexpr int64_t kNone = 1 << 30;
  /// The least of add(cost of the slots before, tokens of the last one, whether it splits a
  /// prompt).
  template <class Add>
  int64_t best(const Add& add) const {
    std::vector<int64_t> costs(static_cast<size_t>(count()) + 1, kNone);
    costs[0] = 0;
    for (int64_t slot = 0; slot < kNumSlots; ++slot) {
      std::vector<int64_t> next = costs;
      for (int64_t last = 1; last <= count(); ++last)
        for (int64_t first = 0; first < last; ++first)
          if (const int64_t before = costs[static_cast<size_t>(first)]; before < kNone)
            next[static_cast<size_t>(last)] =
                std::min(next[static_cast<size_t>(last)],
                         add(before, tokens(first, last), splits_at(first)));
      costs = std::move(next);
    }
    return costs.back();
  }

  const std::vector<SampleLength>& lengths_;
  /// Sums of what each sample adds to those before it.
  std::vector<int64_t> added_;
};

TEST(Plan, EverySampleOnceWithinBudgetNoSlotLongerThanNeededAndFewPromptsSplit) {
  for (uint64_t draw = 1; draw <= 400; ++draw) {
    SCOPED_TRACE(draw);
    std::mt19937_64 random(testing::test_seed(draw));
    const std::vector<SampleLength> lengths =
        draw % 2 ? draw_lengths(random) : alone_of(draw_lengths(random));
    const AllPlans all(lengths);
    const int64_t budget = 1 + static_cast<int64_t>(random() % 400);
    const auto plan = plan_micro_batches(lengths, budget);
    int64_t next = 0, slot = -1, splits = 0;
    std::vector<int64_t> first_of_slot, used;
    for (size_t i = 0; i < plan.size(); ++i) {
      const MicroBatch& cut = plan[i];
      ASSERT_EQ(cut.first, next);
      ASSERT_GT(cut.last, cut.first);
      next = cut.last;
      ASSERT_EQ(cut.tokens, all.tokens(cut.first, cut.last));
      ASSERT_TRUE(cut.tokens <= budget || cut.last - cut.first == 1);
      if (cut.slot == slot) {
        // Greedy: the sample did not fit into the micro-batch before it.
        ASSERT_GT(plan[i - 1].tokens + all.at(cut.first).tokens - all.at(cut.first).shared, budget);
        continue;
      }
      ASSERT_GT(cut.slot, slot);
      slot = cut.slot;
      used.push_back(slot);
      splits += all.splits_at(cut.first);
      first_of_slot.push_back(cut.first);
    }
    ASSERT_EQ(next, all.count());
    ASSERT_LT(slot, kNumSlots);
    const int64_t limit = std::max(all.shortest(), budget);
    first_of_slot.push_back(all.count());
    for (size_t i = 0; i + 1 < first_of_slot.size(); ++i)
      ASSERT_LE(all.tokens(first_of_slot[i], first_of_slot[i + 1]), limit);
    ASSERT_EQ(splits, all.fewest_splits(limit));
    // Ranks have as many slots each, as far as that goes.
    for (const int64_t ranks : {2, 4, 8}) {
      std::vector<int64_t> of_rank(static_cast<size_t>(ranks));
      for (const int64_t one : used) ++of_rank[static_cast<size_t>(one * ranks / kNumSlots)];
      const auto [least, most] = std::minmax_element(of_rank.begin(), of_rank.end());
      ASSERT_LE(*most - *least, 1) << ranks << " ranks, " << used.size() << " slots";
    }
    // What shares nothing is spread over all slots.
    if (draw % 2 == 0) {
      ASSERT_EQ(std::ssize(used), std::min(all.count(), kNumSlots));
      for (size_t i = 0; i + 1 < first_of_slot.size(); ++i)
        ASSERT_LE(all.tokens(first_of_slot[i], first_of_slot[i + 1]), all.shortest());
    }
  }
}

TEST(Plan, ASharedPromptIsCountedOnceAMicroBatch) {
  // Eight groups of six samples of 10 tokens with a prompt of 8; 14 tokens are three of them.
  std::vector<SampleLength> lengths;
  for (int64_t i = 0; i < kNumSlots; ++i) append_group(lengths, 6, {10, 8});
  const auto plan = plan_micro_batches(lengths, 14);
  ASSERT_EQ(plan.size(), 2u * kNumSlots);
  for (const MicroBatch& cut : plan) EXPECT_EQ(cut.last - cut.first, 3);
}

TEST(Plan, WavesAreCutWhereTheyNeedTheLeastMemory) {
  // Two micro-batches of 10 tokens a slot.
  const auto plan = plan_micro_batches(alone(std::vector<int64_t>(2 * kNumSlots, 10)), 10);
  // Sums are all: one wave, whose layers' sums are made one after another when the head's tree is
  // gone.
  const Waves few = plan_waves(plan, {.head = 100, .layers = 1000, .token = 1});
  EXPECT_EQ(few.ends, (std::vector<size_t>{16}));
  EXPECT_EQ(few.bytes, 100 + 1000 + 160);
  EXPECT_EQ(plan_waves(plan, {.head = 1000, .layers = 100, .token = 1}).bytes, 4500 + 160);
  // Three sums of a layer wait for its last slot, whose gradients have been made.
  EXPECT_EQ(
      plan_waves(plan, {.head = 100, .layers = 1000, .layer = 10, .made = 5, .token = 1}).bytes,
      100 + 1000 + 160 + 3 * 10 + 5);
  // Tokens are all: each micro-batch goes alone.
  const Waves many = plan_waves(plan, {.head = 2, .layers = 1, .token = 1000});
  EXPECT_EQ(many.ends.size(), plan.size());
  EXPECT_EQ(many.bytes, 9 + 4 + 10 * 1000);
  // Between, without a head: 30 and 80 tokens of two waves, 60 and 40 of four, 90 and 20 of eight.
  EXPECT_EQ(plan_waves(plan, {.layers = 30, .token = 1}).ends.size(), 4u);
  EXPECT_EQ(plan_waves(plan, {.layers = 15, .token = 1}).ends.size(), 8u);
  EXPECT_TRUE(plan_waves({}, {.layers = 1, .token = 1}).ends.empty());
}

TEST(Plan, SlotsOfSamplesThatShareNothingDoNotDependOnTheBudget) {
  std::mt19937_64 random(testing::test_seed(2));
  std::vector<int64_t> lengths(37);
  for (auto& length : lengths) length = 1 + static_cast<int64_t>(random() % 90);
  const auto slots_of = [&](int64_t budget) {
    std::vector<int64_t> slots(lengths.size());
    for (const MicroBatch& cut : plan_micro_batches(alone(lengths), budget))
      for (int64_t i = cut.first; i < cut.last; ++i) slots[static_cast<size_t>(i)] = cut.slot;
    return slots;
  };
  EXPECT_EQ(slots_of(1), slots_of(100000));
}

}  // namespace
}  // namespace lockstep::train
