// The strided copy against its definition, element by element.
// SPDX-License-Identifier: Apache-2.0
#include "layout/strided_copy.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "base/random.h"
#include "tests/support/test_seed.h"

namespace lockstep::layout {
namespace {

int64_t reach(const Strides& s, const Dims& steps, int64_t offset) {
  for (int d = 0; d < s.num_dims; ++d)
    offset += (s.size[static_cast<size_t>(d)] - 1) * steps[static_cast<size_t>(d)];
  return offset + 1;
}

/// What strided_copy is to do.
void copy_by_definition(const Strides& s, int64_t width, const std::byte* from, std::byte* to) {
  for (int64_t i = 0; i < s.numel(); ++i) {
    int64_t rest = i, f = s.from_offset, t = s.to_offset;
    for (int d = s.num_dims; d-- > 0;) {
      const auto dim = static_cast<size_t>(d);
      f += rest % s.size[dim] * s.from[dim];
      t += rest % s.size[dim] * s.to[dim];
      rest /= s.size[dim];
    }
    std::memcpy(to + t * width, from + f * width, static_cast<size_t>(width));
  }
}

void check(const Strides& s, int64_t width) {
  std::vector<std::byte> from(static_cast<size_t>(reach(s, s.from, s.from_offset) * width));
  const RandomStream random("strided-copy", testing::test_seed(1));
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(random.bits(i));
  std::vector<std::byte> expected(static_cast<size_t>(reach(s, s.to, s.to_offset) * width),
                                  std::byte{0x5A}),
      actual = expected;
  const std::vector<std::byte> untouched = actual;
  copy_by_definition(s, width, from.data(), expected.data());
  for (const Destination destination : {Destination::kMemory, Destination::kCache}) {
    actual = untouched;
    strided_copy(s, width, from.data(), actual.data(), destination);
    EXPECT_TRUE(actual == expected)
        << "width " << width << ", " << s.size[0] << " x " << s.size[1] << " x " << s.size[2];
  }
}

TEST(StridedCopy, RunsOfAnyLengthAndPlace) {
  for (const int64_t width : {1, 2, 4, 8})
    for (const int64_t run : {1, 7, 64, 1023, 5000})
      for (const int64_t offset : {0, 3})
        check({.num_dims = 2,
               .size = {5, run},
               .from = {run + 9, 1},
               .to = {run + 2, 1},
               .from_offset = offset,
               .to_offset = 2 * offset},
              width);
}

TEST(StridedCopy, TransposesBothWays) {
  for (const int64_t width : {1, 2, 4, 8})
    for (const auto& [rows, columns] :
         {std::pair<int64_t, int64_t>{3, 5}, {64, 64}, {128, 32}, {129, 33}, {300, 100}, {31, 513}})
      for (const int64_t extra : {0, 5}) {
        // The source runs along columns, the target along rows; and the other way round.
        check({.num_dims = 2,
               .size = {rows, columns},
               .from = {columns + extra, 1},
               .to = {1, rows + extra},
               .from_offset = extra,
               .to_offset = extra},
              width);
        check({.num_dims = 2,
               .size = {rows, columns},
               .from = {1, rows + extra},
               .to = {columns + extra, 1}},
              width);
        // Below an outer dimension.
        check({.num_dims = 3,
               .size = {2, rows, columns},
               .from = {(columns + extra) * rows, columns + extra, 1},
               .to = {(rows + extra) * columns, 1, rows + extra}},
              width);
      }
}

TEST(StridedCopy, StridesWithoutARunOnEitherSide) {
  for (const int64_t width : {1, 2, 4, 8})
    check({.num_dims = 3, .size = {3, 4, 5}, .from = {2, 30, 6}, .to = {100, 21, 4}}, width);
  check({.num_dims = 0, .from_offset = 2, .to_offset = 3}, 4);
}

TEST(StridedCopy, ChangeOfValueSaysWhetherItComesBack) {
  const Strides row{.num_dims = 1, .size = {2}, .from = {1}, .to = {1}};
  const uint16_t good[2] = {0x3F80, 0x3FC0}, bad[2] = {0x3F80, 0x3081};  // 1, 1.5; 1, 1e-9
  uint16_t to[2];
  const auto change = [&](const uint16_t* from, int by) {
    return strided_copy_changed(row, {ElementType::kBF16, ElementType::kBF16, by},
                                reinterpret_cast<const std::byte*>(from),
                                reinterpret_cast<std::byte*>(to));
  };
  EXPECT_TRUE(change(good, -1));
  EXPECT_EQ(to[0], 0x0000);
  EXPECT_EQ(to[1], 0x3F00);
  EXPECT_FALSE(change(bad, -1));
}

float from_bits(uint32_t bits) { return std::bit_cast<float>(bits); }

/// The nearer one of the two neighbours in bfloat16, of equal ones the even one.
uint16_t rounded_by_definition(uint32_t bits) {
  if (std::isinf(from_bits(bits))) return static_cast<uint16_t>(bits >> 16);
  const auto below = static_cast<uint16_t>(bits >> 16), above = static_cast<uint16_t>(below + 1);
  const auto value = [](uint16_t upper) -> double {
    // Behind the largest number comes what would be the next one, not infinity.
    const auto wide = static_cast<uint32_t>(upper) << 16;
    const double found = from_bits(wide);
    return std::isinf(found) ? std::copysign(std::ldexp(1.0, 128), found) : found;
  };
  const double to_below = std::abs(from_bits(bits) - value(below)),
               to_above = std::abs(from_bits(bits) - value(above));
  if (to_below != to_above) return to_below < to_above ? below : above;
  return below % 2 == 0 ? below : above;
}

TEST(StridedCopy, Float32IsRoundedToTheNearestBFloat16) {
  std::vector<uint32_t> from;
  for (uint32_t upper = 0; upper < 0x10000; upper += 1)
    for (const uint32_t lower : {0u, 1u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu})
      if (!std::isnan(from_bits(upper << 16 | lower))) from.push_back(upper << 16 | lower);
  std::vector<uint16_t> to(from.size());
  const auto count = static_cast<int64_t>(from.size());
  const Strides row{.num_dims = 1, .size = {count}, .from = {1}, .to = {1}};
  EXPECT_FALSE(strided_copy_changed(row, {ElementType::kF32, ElementType::kBF16},
                                    reinterpret_cast<const std::byte*>(from.data()),
                                    reinterpret_cast<std::byte*>(to.data())));
  for (size_t i = 0; i < from.size(); ++i)
    ASSERT_EQ(to[i], rounded_by_definition(from[i])) << std::hex << from[i];
}

TEST(StridedCopy, BFloat16IsWidenedAndComesBackBitByBit) {
  // Every bfloat16, NaNs and both zeros among them, by rows on one side and by columns on the
  // other.
  std::vector<uint16_t> from(0x10000), back(0x10000);
  std::vector<uint32_t> wide(0x10000);
  std::iota(from.begin(), from.end(), uint16_t{0});
  const Strides there{.num_dims = 2, .size = {256, 256}, .from = {256, 1}, .to = {1, 256}},
      again{.num_dims = 2, .size = {256, 256}, .from = {1, 256}, .to = {256, 1}};
  EXPECT_TRUE(strided_copy_changed(there, {ElementType::kBF16, ElementType::kF32},
                                   reinterpret_cast<const std::byte*>(from.data()),
                                   reinterpret_cast<std::byte*>(wide.data())));
  for (uint32_t i = 0; i < 0x10000; ++i) ASSERT_EQ(wide[i % 256 * 256 + i / 256], i << 16);
  EXPECT_TRUE(strided_copy_changed(again, {ElementType::kF32, ElementType::kBF16},
                                   reinterpret_cast<const std::byte*>(wide.data()),
                                   reinterpret_cast<std::byte*>(back.data())));
  EXPECT_EQ(back, from);
}

TEST(StridedCopy, NaNStaysNaNWhenItIsRounded) {
  const Strides one{.num_dims = 0};
  for (const uint32_t bits :
       {0x7F80'0001u, 0x7FFF'FFFFu, 0xFF80'0001u, 0xFFFF'FFFFu, 0x7FC0'0000u}) {
    uint16_t to = 0;
    strided_copy_changed(one, {ElementType::kF32, ElementType::kBF16},
                         reinterpret_cast<const std::byte*>(&bits),
                         reinterpret_cast<std::byte*>(&to));
    EXPECT_TRUE(std::isnan(from_bits(static_cast<uint32_t>(to) << 16))) << std::hex << bits;
    EXPECT_EQ(to >> 15, bits >> 31) << std::hex << bits;
  }
}

}  // namespace
}  // namespace lockstep::layout
