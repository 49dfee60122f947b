// SPDX-License-Identifier: Apache-2.0
#include "cache/cache_tensors.h"

#include "tests/support/expect_close.h"

namespace lockstep::cache {
namespace {

using lockstep::testing::same_bits;

CacheSpec mixed_spec(at::ScalarType dtype) {
  CacheSpec spec;
  spec.layers = {{false}, {true}, {false}, {true}, {true}};
  spec.dtype = dtype;
  spec.page_tokens = 8;
  spec.num_pages = 5;
  spec.num_slots = 3;
  spec.num_key_value_heads = 2;
  spec.head_dim = 6;
  spec.conv_taps = 4;
  spec.conv_channels = 10;
  spec.value_heads = 2;
  spec.key_head_dim = 3;
  spec.value_head_dim = 5;
  return spec;
}

std::vector<at::Tensor> tensors_of(const CacheTensors& cache) {
  std::vector<at::Tensor> all;
  for (const auto& layer : cache.layers)
    for (const auto& tensor : {layer.keys, layer.values, layer.conv, layer.state})
      if (tensor.defined()) all.push_back(tensor);
  return all;
}

/// Every element another number, as far as the dtype can tell.
void number_elements(const CacheTensors& cache) {
  int64_t next = 1;
  for (const auto& tensor : tensors_of(cache)) {
    tensor.copy_(at::arange(next, next + tensor.numel()).view(tensor.sizes()));
    next += tensor.numel();
  }
}

/// Checks the tensors of all layers, bit for bit.
void expect_tensors(const CacheTensors& cache, const std::vector<at::Tensor>& expected) {
  const auto actual = tensors_of(cache);
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) EXPECT_TRUE(same_bits(actual[i], expected[i])) << i;
}

std::vector<at::Tensor> copies_of(const CacheTensors& cache) {
  std::vector<at::Tensor> copies;
  for (const auto& tensor : tensors_of(cache)) copies.push_back(tensor.clone());
  return copies;
}

TEST(CacheTensors, LayersHaveTheCachesOfTheirKindInTheRightDtypes) {
  const CacheTensors cache(mixed_spec(at::kBFloat16));
  ASSERT_EQ(cache.layers.size(), 5u);
  const LayerCache& delta = cache.layers[0];
  const LayerCache& attention = cache.layers[1];
  EXPECT_FALSE(delta.keys.defined() || delta.values.defined());
  EXPECT_FALSE(attention.conv.defined() || attention.state.defined());
  EXPECT_EQ(attention.keys.sizes(), (at::IntArrayRef{6, 2, 8, 6}));
  EXPECT_EQ(attention.values.sizes(), (at::IntArrayRef{6, 2, 8, 6}));
  EXPECT_EQ(delta.conv.sizes(), (at::IntArrayRef{4, 3, 10}));
  EXPECT_EQ(delta.state.sizes(), (at::IntArrayRef{4, 2, 3, 5}));
  EXPECT_EQ(attention.keys.scalar_type(), at::kBFloat16);
  EXPECT_EQ(delta.conv.scalar_type(), at::kBFloat16);
  EXPECT_EQ(delta.state.scalar_type(), at::kFloat);
}

TEST(CacheTensors, PlannedBytesAreTheAllocatedBytes) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const CacheSpec spec = mixed_spec(dtype);
    const CacheTensors cache(spec);
    int64_t bytes = 0;
    for (const auto& tensor : tensors_of(cache)) bytes += static_cast<int64_t>(tensor.nbytes());
    EXPECT_EQ(bytes,
              (spec.num_pages + 1) * spec.page_bytes() + (spec.num_slots + 1) * spec.slot_bytes());
  }
}

TEST(CacheTensors, CopyPageCopiesThatPageOfEveryAttentionLayerAndNothingElse) {
  CacheTensors cache(mixed_spec(at::kFloat));
  number_elements(cache);
  auto expected = copies_of(cache);
  for (auto& tensor : expected)
    if (tensor.size(0) == 6) tensor.select(0, 4).copy_(tensor.select(0, 2).clone());
  cache.copy_page(2, 4);
  expect_tensors(cache, expected);
}

TEST(CacheTensors, CopySlotCopiesThatSlotOfEveryDeltaLayerAndNothingElse) {
  CacheTensors cache(mixed_spec(at::kFloat));
  number_elements(cache);
  auto expected = copies_of(cache);
  for (auto& tensor : expected)
    if (tensor.size(0) == 4) tensor.select(0, 1).copy_(tensor.select(0, 3).clone());
  cache.copy_slot(3, 1);
  expect_tensors(cache, expected);
}

TEST(CacheTensors, ClearSlotZeroesThatSlotAndNothingElse) {
  CacheTensors cache(mixed_spec(at::kFloat));
  number_elements(cache);
  auto expected = copies_of(cache);
  for (auto& tensor : expected)
    if (tensor.size(0) == 4) tensor.select(0, 2).zero_();
  cache.clear_slot(2);
  expect_tensors(cache, expected);
}

}  // namespace
}  // namespace lockstep::cache
