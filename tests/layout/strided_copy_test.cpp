// The strided copy against its definition, element by element.
// SPDX-License-Identifier: Apache-2.0
#include "layout/strided_copy.h"

#include <cstring>
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
    return strided_copy_changed(row, ElementType::kBF16, by,
                                reinterpret_cast<const std::byte*>(from),
                                reinterpret_cast<std::byte*>(to));
  };
  EXPECT_TRUE(change(good, -1));
  EXPECT_EQ(to[0], 0x0000);
  EXPECT_EQ(to[1], 0x3F00);
  EXPECT_FALSE(change(bad, -1));
}

}  // namespace
}  // namespace lockstep::layout
