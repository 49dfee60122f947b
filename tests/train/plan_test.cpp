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

TEST(Plan, CutsBySlotAndByBudget) {
  // Ten samples: slots of 1, 1, 1, 2, 1, 1, 1, 2 samples.
  const auto plan = plan_micro_batches(alone({5, 5, 5, 3, 4, 5, 5, 5, 6, 6}), 10);
  std::vector<std::vector<int64_t>> cuts;
  for (const MicroBatch& cut : plan) cuts.push_back({cut.slot, cut.first, cut.last});
  EXPECT_EQ(cuts, (std::vector<std::vector<int64_t>>{{0, 0, 1},
                                                     {1, 1, 2},
                                                     {2, 2, 3},
                                                     {3, 3, 5},
                                                     {4, 5, 6},
                                                     {5, 6, 7},
                                                     {6, 7, 8},
                                                     {7, 8, 9},
                                                     {7, 9, 10}}));
}

TEST(Plan, NoSamplesGiveNoMicroBatches) { EXPECT_TRUE(plan_micro_batches({}, 100).empty()); }

TEST(Plan, ASampleLongerThanTheBudgetIsAlone) {
  const std::vector<int64_t> lengths(16, 50);
  const auto plan = plan_micro_batches(alone(lengths), 49);
  ASSERT_EQ(plan.size(), 16u);
  for (const MicroBatch& cut : plan) EXPECT_EQ(cut.last - cut.first, 1);
}

TEST(Plan, EverySampleOnceInOrderWithinBudgetAndInEvenSlots) {
  const uint64_t first_seed = testing::test_seed(1);
  for (uint64_t seed = first_seed; seed < first_seed + 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
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
      in_slot[static_cast<size_t>(slot)] += cut.last - cut.first;
    }
    ASSERT_EQ(next, static_cast<int64_t>(lengths.size()));
    const auto [low, high] = std::minmax_element(in_slot.begin(), in_slot.end());
    ASSERT_LE(*high - *low, 1);
  }
}

TEST(Plan, ASharedPromptIsCountedOnceAMicroBatch) {
  // A slot of six samples of 10 tokens, five of which have the prompt of 8 of the one before; 14
  // tokens are three of them.
  std::vector<SampleLength> lengths(6 * kNumSlots, {10, 8});
  for (size_t i = 0; i < lengths.size(); i += 6) lengths[i].shared = 0;
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

TEST(Plan, SlotsDoNotDependOnTheBudget) {
  std::mt19937_64 random(2);
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
