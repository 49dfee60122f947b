// SPDX-License-Identifier: Apache-2.0
#include "sync/weight_delta.h"

#include <cstring>
#include <random>

#include <gtest/gtest.h>

#include "sync/weight_image.h"
#include "tensor/aten.h"
#include "tests/support/expect_error.h"

namespace lockstep::sync {
namespace {

using Bytes = std::vector<std::byte>;

/// Tensors that change, the block they are written to, and deltas from each writing to the next.
class Weights {
 public:
  explicit Weights(std::vector<io::NamedTensor> given)
      : tensors(std::move(given)), writer(tensors), block(writer.bytes()) {
    digest = writer.write(block, 2).hex();
  }

  /// Writes the tensors as they are now and returns what has changed.
  Bytes delta(size_t most_bytes = size_t{1} << 40) {
    DeltaWriter changes(most_bytes);
    const std::string base = digest;
    digest = writer
                 .write(block, 2,
                        [&](size_t i, auto before, auto after) {
                          changes.add(i, before, after, writer.element_bytes(i));
                        })
                 .hex();
    changed = changes.changed();
    elements = changes.elements();
    return changes.finish(base, digest, block.size(),
                          std::span(block).first(writer.header_bytes()));
  }
  at::Tensor& operator[](const std::string& name) {
    for (io::NamedTensor& named : tensors)
      if (named.name == name) return named.tensor;
    throw std::out_of_range(name);
  }

  std::vector<io::NamedTensor> tensors;
  ImageWriter writer;
  Bytes block;
  std::string digest;
  int64_t changed = 0, elements = 0;
};

Weights some_weights() {
  return Weights({{"long", at::randn({3, 700'000}).to(at::kBFloat16)},
                  {"full", at::randn({7, 301})},
                  {"bytes", at::randint(0, 256, {1000}, at::kByte)},
                  {"wide", at::randn({50}, at::kDouble)},
                  {"empty", at::empty({0, 4})},
                  {"still", at::randn({17}).to(at::kHalf)}});
}

std::string applied(const Bytes& delta, Bytes& block) {
  const Bytes before = block;
  const WeightImage base(nullptr, before, "here");
  return apply_delta(delta, base, block, "here", 2);
}

TEST(WeightDelta, MakesTheBaseTheNewWeights) {
  Weights weights = some_weights();
  Bytes held = weights.block;
  weights["long"][0][0] += 1;
  weights["long"][2][699'999] = -weights["long"][2][699'999];
  weights["full"].mul_(1.0001);
  weights["bytes"].add_(1);
  weights["wide"][7] = 0;
  const Bytes delta = weights.delta();
  EXPECT_EQ(applied(delta, held), weights.digest);
  EXPECT_EQ(held, weights.block);
  EXPECT_EQ(weights.changed, 2 + 7 * 301 + 1000 + 1);
  EXPECT_EQ(weights.elements, 2'100'000 + 7 * 301 + 1000 + 50 + 17);
}

TEST(WeightDelta, OfNothingIsAlmostNothing) {
  Weights weights = some_weights();
  Bytes held = weights.block;
  const Bytes delta = weights.delta();
  EXPECT_EQ(weights.changed, 0);
  EXPECT_LT(delta.size(), weights.writer.header_bytes());
  EXPECT_EQ(applied(delta, held), weights.digest);
  EXPECT_EQ(held, weights.block);
}

TEST(WeightDelta, IsGivenUpWhenItIsNotSmaller) {
  Weights weights = some_weights();
  weights["long"].normal_();
  EXPECT_TRUE(weights.delta(weights.block.size() / 2).empty());
}

TEST(WeightDelta, IsSmallWhereFewElementsMove) {
  Weights weights({{"a", at::randn({1000, 1000}).to(at::kBFloat16)}});
  Bytes held = weights.block;
  // One step in the last place of every fortieth element.
  auto* const words = reinterpret_cast<int16_t*>(weights["a"].mutable_data_ptr());
  for (int64_t i = 0; i < 1'000'000; i += 40) words[i] = static_cast<int16_t>(words[i] + 1);
  const Bytes delta = weights.delta();
  EXPECT_LT(delta.size() * 50, weights.block.size());
  EXPECT_EQ(applied(delta, held), weights.digest);
  EXPECT_EQ(held, weights.block);
}

/// Any of these, evenly.
template <class Value>
Value one_of(std::mt19937& random, std::initializer_list<Value> values) {
  return values.begin()[random() % values.size()];
}

TEST(WeightDelta, AnyChangeGoesThereAndBack) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto count = static_cast<int64_t>(1 + random() % 3000);
    const auto dtype = one_of(random, {at::kBFloat16, at::kFloat, at::kByte, at::kDouble});
    const auto value_at = [&](const at::Tensor& tensor, int64_t i) {
      auto* const bytes = static_cast<uint8_t*>(tensor.mutable_data_ptr());
      for (int64_t k = 0; k < tensor.element_size(); ++k)
        bytes[i * tensor.element_size() + k] = one_of<uint8_t>(random, {0, 1, 127, 128, 255});
    };
    Weights weights({{"a", at::zeros({count}, dtype)}});
    for (int64_t i = 0; i < count; ++i) value_at(weights["a"], i);
    weights.delta();
    std::vector<std::byte> held = weights.block;
    // Long and short runs of what stays.
    for (int64_t i = 0; i < count; i += 1 + one_of(random, {0, 0, 1, 254, 255, 256, 510, 600}))
      value_at(weights["a"], i);
    const Bytes delta = weights.delta();
    ASSERT_EQ(applied(delta, held), weights.digest);
    ASSERT_EQ(held, weights.block);
  }
}

TEST(WeightDelta, OtherBasesAndBlocksAreRefused) {
  Weights weights = some_weights();
  const Bytes first = weights.block;
  weights["full"].add_(1);
  const Bytes one = weights.delta();
  Bytes held = weights.block;
  EXPECT_ERROR(applied(one, held), FormatError, "wrong-base", "expected a delta from weights");
  Weights others({{"full", at::randn({7, 301})}});
  Bytes small = others.block;
  Bytes named = one;
  std::memcpy(named.data() + 8, others.digest.data(), 32);
  EXPECT_ERROR(applied(named, small), FormatError, "bad-delta", "a block of");
  EXPECT_ERROR(applied({}, held), FormatError, "bad-delta", "the beginning of a delta");
}

/// Where the chunks of a delta begin, with their number.
ptrdiff_t chunks_at(const Bytes& delta) {
  size_t packed = 0;
  std::memcpy(&packed, delta.data() + 88, sizeof(packed));
  return static_cast<ptrdiff_t>(96 + packed);
}

/// A delta of one chunk, with what stands in it at known places.
struct SmallDelta {
  SmallDelta() : weights({{"a", at::zeros({300}, at::kByte)}, {"b", at::zeros({9}, at::kByte)}}) {
    base = weights.block;
    weights["a"][256] = 3;
    delta = weights.delta();
    chunk = static_cast<size_t>(chunks_at(delta)) + sizeof(uint64_t);
  }
  /// The delta with a number in the place of another.
  template <class Integer>
  Bytes with(size_t at, Integer value) const {
    Bytes other = delta;
    std::memcpy(other.data() + at, &value, sizeof(value));
    return other;
  }
  Weights weights;
  Bytes base, delta;
  size_t chunk = 0;
};

TEST(WeightDelta, EachFieldIsChecked) {
  const SmallDelta small;
  const auto expect = [&](const Bytes& delta, const std::string& message) {
    Bytes held = small.base;
    EXPECT_ERROR(applied(delta, held), FormatError, "bad-delta", message);
  };
  Bytes held = small.base;
  EXPECT_EQ(applied(small.delta, held), small.weights.digest);
  const size_t chunk = small.chunk;
  expect(small.with<char>(0, 'X'), "expected LSDELTA1");
  expect(small.with<uint64_t>(72, 5), "a block of");
  expect(small.with<uint64_t>(80, 5), "a header of");
  expect(small.with<uint64_t>(88, uint64_t{1} << 63), "a header (");
  expect(small.with<uint64_t>(chunk - 8, 2), "chunk 1");
  expect(small.with<uint64_t>(chunk - 8, 0), "expected the end, got more bytes");
  expect(small.with<uint32_t>(chunk, 2), "chunk 0: expected one of 2 tensors, got 2");
  expect(small.with<uint32_t>(chunk + 4, 0), "chunk 0: expected a range");
  expect(small.with<uint32_t>(chunk + 4, 301), "in the 300 elements of a");
  expect(small.with<uint64_t>(chunk + 8, 1), "got [1, 1 + 300) of tensor 0");
  expect(small.with<uint64_t>(chunk + 8, ~uint64_t{0}), "expected a range");
  expect(small.with<uint32_t>(chunk + 16, 0), "expected 1 to 300 changes, got 0");
  expect(small.with<uint32_t>(chunk + 16, 301), "expected 1 to 300 changes, got 301");
  expect(small.with<uint32_t>(chunk + 20, 0), "bytes of gaps");
  expect(small.with<uint32_t>(chunk + 20, 3), "expected 1 to 2 bytes of gaps, got 3");
  expect(small.with<uint32_t>(chunk + 24, 1), "expected 0, got 1");
  expect(small.with<uint32_t>(chunk + 28, 1000), "gaps and changes (1000 bytes)");
  expect(small.with<uint32_t>(chunk + 4, 256), "expected 1 changes in 256 elements");
  for (size_t size = 0; size < small.delta.size(); ++size)
    expect(Bytes(small.delta.begin(), small.delta.begin() + static_cast<ptrdiff_t>(size)), "byte ");
  Bytes longer = small.delta;
  longer.push_back(std::byte{0});
  expect(longer, "expected the end, got more bytes");
}

TEST(WeightDelta, ChunksComeInOrderAndOnce) {
  Weights weights({{"a", at::zeros({300}, at::kByte)}, {"b", at::zeros({300}, at::kByte)}});
  const Bytes base = weights.block;
  weights["a"][9] = 3;
  weights["b"][9] = 3;
  const Bytes delta = weights.delta();
  const auto first = delta.begin() + chunks_at(delta) + sizeof(uint64_t);
  // Two chunks of the same size: a head and what is packed.
  const auto second = first + (delta.end() - first) / 2;
  for (const bool is_swapped : {true, false}) {
    Bytes other(delta.begin(), first);
    other.insert(other.end(), is_swapped ? second : first, is_swapped ? delta.end() : second);
    other.insert(other.end(), first, second);
    Bytes held = base;
    EXPECT_ERROR(applied(other, held), FormatError, "bad-delta", "behind the chunk before");
  }
}

TEST(WeightDelta, WrongValuesShowByTheirDigests) {
  Weights one({{"a", at::zeros({300}, at::kByte)}}), two({{"a", at::zeros({300}, at::kByte)}});
  const Bytes base = one.block;
  one["a"][9] = 3;
  two["a"][9] = 4;
  const Bytes first = one.delta(), second = two.delta();
  // The digests of the one with the changes of the other.
  Bytes mixed(first.begin(), first.begin() + chunks_at(first));
  mixed.insert(mixed.end(), second.begin() + chunks_at(second), second.end());
  Bytes held = base;
  EXPECT_ERROR(applied(mixed, held), FormatError, "digest-mismatch", "here: a");
  // And with no changes at all.
  Bytes none(first.begin(), first.begin() + chunks_at(first));
  none.resize(none.size() + sizeof(uint64_t));
  held = base;
  EXPECT_ERROR(applied(none, held), FormatError, "digest-mismatch", "of a tensor without changes");
}

}  // namespace
}  // namespace lockstep::sync
