// SPDX-License-Identifier: Apache-2.0
#include "train/gradient_tree.h"

#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "train/plan.h"

namespace lockstep::train {
namespace {

using testing::same_bits;

at::Tensor random_tensor(std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  at::Tensor made = at::empty({7}, at::TensorOptions().dtype(at::kFloat));
  for (int64_t i = 0; i < 7; ++i) made.mutable_data_ptr<float>()[i] = normal(random);
  return made;
}

/// a + b, where nothing plus something is that something.
at::Tensor plus(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined()) return b;
  return b.defined() ? a.add(b) : a;
}

TEST(GradientTree, EqualsTheExplicitTreeBitForBit) {
  const uint64_t first_seed = testing::test_seed(1);
  for (uint64_t seed = first_seed; seed < first_seed + 100; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    constexpr size_t kParameters = 3;
    GradientTree tree(kParameters);
    std::vector<std::vector<at::Tensor>> slots;
    for (int64_t slot = 0; slot < kNumSlots; ++slot) {
      std::vector<at::Tensor> sums(kParameters);
      // Some slots get nothing at all, some parameters nothing in a slot.
      for (uint64_t adds = random() % 4; adds > 0; --adds) {
        const size_t parameter = random() % kParameters;
        const at::Tensor gradient = random_tensor(random);
        sums[parameter] = plus(sums[parameter], gradient.clone());
        tree.add(parameter, gradient);
      }
      slots.push_back(std::move(sums));
      tree.finish_slot();
    }
    const auto actual = tree.take();
    ASSERT_EQ(actual.size(), kParameters);
    for (size_t p = 0; p < kParameters; ++p) {
      const auto pair = [&](size_t i) { return plus(slots[i][p], slots[i + 1][p]); };
      const at::Tensor expected = plus(plus(pair(0), pair(2)), plus(pair(4), pair(6)));
      ASSERT_EQ(actual[p].defined(), expected.defined());
      if (expected.defined()) {
        ASSERT_TRUE(same_bits(actual[p], expected));
      }
    }
  }
}

TEST(GradientTree, DoesNotChangeGradientsThatOthersHold) {
  std::mt19937_64 random(3);
  const at::Tensor first = random_tensor(random), second = random_tensor(random),
                   copy = first.clone();
  GradientTree tree(1);
  tree.add(0, first);
  tree.add(0, second);
  EXPECT_TRUE(same_bits(first, copy));
}

TEST(GradientTree, WidensBfloat16BeforeAdding) {
  GradientTree tree(1);
  const auto filled = [](double value) {
    return at::full({1}, value, at::TensorOptions().dtype(at::kBFloat16));
  };
  tree.add(0, filled(256));
  tree.add(0, filled(0.5));  // lost in bfloat16
  for (int64_t slot = 0; slot < kNumSlots; ++slot) tree.finish_slot();
  const at::Tensor sum = tree.take()[0];
  EXPECT_EQ(sum.scalar_type(), at::kFloat);
  EXPECT_EQ(sum.item<float>(), 256.5f);
}

TEST(GradientTree, CanBeUsedAgain) {
  GradientTree tree(2);
  for (int round = 0; round < 2; ++round) {
    for (int64_t slot = 0; slot < kNumSlots; ++slot) {
      tree.add(0, at::ones({2}, at::TensorOptions().dtype(at::kFloat)));
      tree.finish_slot();
    }
    const auto sums = tree.take();
    EXPECT_EQ(sums[0][0].item<float>(), static_cast<float>(kNumSlots));
    EXPECT_FALSE(sums[1].defined());
  }
}

TEST(GradientTree, TakingTooEarlyIsAnError) {
  GradientTree tree(1);
  tree.finish_slot();
  EXPECT_ERROR(tree.take(), InternalError, "internal", "1 slots are done");
}

}  // namespace
}  // namespace lockstep::train
