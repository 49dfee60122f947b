// SPDX-License-Identifier: Apache-2.0
#include "train/plan.h"

#include <numeric>

#include "tests/support/expect_close.h"

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
            (std::vector<std::vector<int64_t>>{{0, 0, 5}, {1, 5, 8}}));
  std::vector<SampleLength> two = one;
  append_group(two, 8, {576, 512});
  EXPECT_EQ(cuts_of(plan_micro_batches(two, 4096)),
            (std::vector<std::vector<int64_t>>{{0, 0, 8}, {1, 8, 16}}));
}

TEST(Plan, AGroupIsCutWhereTheLongestSlotWouldBeTooLong) {
  // Nine groups in eight slots: two whole groups in a slot would be 2 * (10 + 4 * 90), where a cut
  // between samples makes no slot longer than 5 completions and 2 prompts.
  std::vector<SampleLength> lengths;
  for (int i = 0; i < 9; ++i) append_group(lengths, 4, {100, 10});
  const auto plan = plan_micro_batches(lengths, 100);
  std::vector<int64_t> tokens(kNumSlots, 0);
  for (const MicroBatch& cut : plan)
    for (int64_t i = cut.first; i < cut.last; ++i)
      tokens[static_cast<size_t>(cut.slot)] += 90 + (i == cut.first || i % 4 == 0 ? 10 : 0);
  EXPECT_LE(*std::max_element(tokens.begin(), tokens.end()), 5 * 90 + 5 * 10);
  // A budget of two groups makes whole groups as good.
  for (const MicroBatch& cut : plan_micro_batches(lengths, 2 * (10 + 4 * 90)))
    EXPECT_TRUE(cut.first % 4 == 0 && cut.last % 4 == 0);
}

TEST(Plan, NoSamplesGiveNoMicroBatches) { EXPECT_TRUE(plan_micro_batches({}, 100).empty()); }

TEST(Plan, ASampleLongerThanTheBudgetIsAlone) {
  const std::vector<int64_t> lengths(16, 50);
  const auto plan = plan_micro_batches(alone(lengths), 49);
  ASSERT_EQ(plan.size(), 16u);
  for (const MicroBatch& cut : plan) EXPECT_EQ(cut.last - cut.first, 1);
}

TEST(Plan, EverySampleOnceInOrderWithinBudgetAndNoSlotLongerThanNeeded) {
  for (uint64_t draw = 1; draw <= 200; ++draw) {
    SCOPED_TRACE(draw);
    std::mt19937_64 random(testing::test_seed(draw));
    std::vector<int64_t> lengths(random() % 70);
    for (auto& length : lengths) length = 1 + static_cast<int64_t>(random() % 90);
    const int64_t budget = 1 + static_cast<int64_t>(random() % 300);
    const auto plan = plan_micro_batches(alone(lengths), budget);
    int64_t next = 0, slot = 0;
    std::vector<int64_t> in_slot(kNumSlots, 0);
    for (size_t i = 0; i < plan.size(); ++i) {
      const MicroBatch& cut = plan[i];
      ASSERT_EQ(cut.first, next);
      ASSERT_GT(cut.last, cut.first);
      ASSERT_GE(cut.slot, slot);
      ASSERT_LT(cut.slot, kNumSlots);
      const int64_t tokens =
          std::accumulate(lengths.begin() + cut.first, lengths.begin() + cut.last, int64_t{0});
      ASSERT_TRUE(tokens <= budget || cut.last - cut.first == 1);
      // Greedy: the next sample of the slot did not fit.
      if (i + 1 < plan.size() && plan[i + 1].slot == cut.slot) {
        ASSERT_GT(tokens + lengths[static_cast<size_t>(cut.last)], budget);
      }
      next = cut.last;
      slot = cut.slot;
      in_slot[static_cast<size_t>(slot)] += tokens;
    }
    ASSERT_EQ(next, static_cast<int64_t>(lengths.size()));
    if (lengths.size() >= static_cast<size_t>(kNumSlots)) {
      ASSERT_EQ(slot, kNumSlots - 1);
    }
    // An average slot and one sample more always suffice.
    const int64_t total = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
    ASSERT_LE(*std::max_element(in_slot.begin(), in_slot.end()), total / kNumSlots + 90);
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
