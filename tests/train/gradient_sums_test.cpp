// SPDX-License-Identifier: Apache-2.0
#include "train/gradient_sums.h"

#include <algorithm>

#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "train/slot_tree.h"

namespace lockstep::train {
namespace {

using testing::same_bits;

at::Tensor random_tensor(std::mt19937_64& random, at::IntArrayRef shape = {7}) {
  std::normal_distribution<float> normal;
  at::Tensor made = at::empty(shape, at::TensorOptions().dtype(at::kFloat));
  for (int64_t i = 0; i < made.numel(); ++i) made.mutable_data_ptr<float>()[i] = normal(random);
  return made;
}

/// a + b, where nothing plus something is that something.
at::Tensor plus(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined()) return b;
  return b.defined() ? a.add(b) : a;
}

TEST(SlotTree, EqualsTheExplicitTreeBitForBit) {
  for (uint64_t draw = 1; draw <= 100; ++draw) {
    SCOPED_TRACE(draw);
    std::mt19937_64 random(testing::test_seed(draw));
    SlotTree<TensorSum> tree;
    std::vector<at::Tensor> slots(kNumSlots);
    for (int64_t slot = 0; slot < kNumSlots; ++slot) {
      at::Tensor& sum = slots[static_cast<size_t>(slot)];
      // Some slots get nothing at all, and telling where one ends changes nothing.
      for (uint64_t adds = random() % 4; adds > 0; --adds) {
        const at::Tensor gradient = random_tensor(random);
        sum = plus(sum, gradient.clone());
        tree.add(slot, {gradient});
      }
      if (random() % 2) tree.finish(slot);
    }
    const auto pair = [&](size_t i) { return plus(slots[i], slots[i + 1]); };
    const at::Tensor expected = plus(plus(pair(0), pair(2)), plus(pair(4), pair(6)));
    const at::Tensor actual = tree.take().value;
    ASSERT_EQ(actual.defined(), expected.defined());
    if (expected.defined()) {
      ASSERT_TRUE(same_bits(actual, expected));
    }
  }
}

TEST(SlotTree, CanBeUsedAgain) {
  SlotTree<TensorSum> tree;
  for (int round = 0; round < 2; ++round) {
    for (int64_t slot = 0; slot < kNumSlots; ++slot)
      tree.add(slot, {at::ones({2}, at::TensorOptions().dtype(at::kFloat))});
    EXPECT_EQ(tree.take().value[0].item<float>(), static_cast<float>(kNumSlots));
    EXPECT_FALSE(tree.take().value.defined());
  }
}

TEST(SlotTree, AnEarlierSlotIsAnError) {
  SlotTree<TensorSum> tree;
  tree.add(2, {at::ones({2}, at::TensorOptions().dtype(at::kFloat))});
  EXPECT_ERROR(tree.add(1, {at::ones({2})}), InternalError, "internal", "slot 1 after slot 2");
}

TEST(TensorSum, DoesNotChangeGradientsThatOthersHold) {
  std::mt19937_64 random(testing::test_seed(3));
  const at::Tensor first = random_tensor(random), second = random_tensor(random),
                   copy = first.clone();
  TensorSum sum;
  add_to(sum, {first});
  add_to(sum, {second});
  EXPECT_TRUE(same_bits(first, copy));
}

TEST(TensorSum, WidensBfloat16BeforeAdding) {
  const auto filled = [](double value) {
    return at::full({1}, value, at::TensorOptions().dtype(at::kBFloat16));
  };
  TensorSum sum;
  add_to(sum, {filled(256)});
  add_to(sum, {filled(0.5)});  // lost in bfloat16
  EXPECT_EQ(sum.value.scalar_type(), at::kFloat);
  EXPECT_EQ(sum.value.item<float>(), 256.5f);
}

/// Sums over slots of an embedding's rows are those of whole gradients, bit for bit.
TEST(RowSums, EqualTheDenseTree) {
  constexpr int64_t kIds = 40, kDim = 5;
  std::mt19937_64 random(testing::test_seed(4));
  SlotTree<RowSums> rows;
  SlotTree<TensorSum> dense;
  for (int64_t slot = 0; slot < kNumSlots; ++slot) {
    for (uint64_t adds = random() % 3; adds > 0; --adds) {
      const auto tokens = static_cast<int64_t>(1 + random() % 30);
      at::Tensor ids = at::empty({tokens}, at::TensorOptions().dtype(at::kLong));
      for (int64_t t = 0; t < tokens; ++t)
        ids.mutable_data_ptr<int64_t>()[t] = static_cast<int64_t>(random() % kIds);
      const at::Tensor gradient = random_tensor(random, {tokens, kDim});
      at::Tensor whole = at::zeros({kIds, kDim}, at::TensorOptions().dtype(at::kFloat));
      for (int64_t t = 0; t < tokens; ++t) whole[ids[t].item<int64_t>()].add_(gradient[t]);
      dense.add(slot, {whole});
      rows.add(slot, sum_rows(ids, gradient));
    }
  }
  const RowSums sums = rows.take();
  EXPECT_TRUE(std::is_sorted(sums.ids.begin(), sums.ids.end()));
  at::Tensor actual = at::zeros({kIds, kDim}, at::TensorOptions().dtype(at::kFloat));
  add_rows(sums, actual);
  EXPECT_TRUE(same_bits(actual, dense.take().value));
}

TEST(RowSums, AddsBfloat16InFloat32) {
  const at::Tensor ids = at::zeros({2}, at::TensorOptions().dtype(at::kLong));
  at::Tensor gradient = at::full({2, 1}, 256.0, at::TensorOptions().dtype(at::kBFloat16));
  gradient[1].fill_(0.5);
  EXPECT_EQ(sum_rows(ids, gradient).rows.item<float>(), 256.5f);
}

}  // namespace
}  // namespace lockstep::train
