// The probe of row independence finds each way in which rows may depend on one another.
// SPDX-License-Identifier: Apache-2.0
#include "ops/row_independence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tensor/aten.h"

namespace lockstep::ops {

void PrintTo(const RowCase& rows, std::ostream* out) {
  *out << rows.rows << (rows.is_in_region ? " in a region" : "");
}

namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::Field;
using ::testing::IsEmpty;

constexpr int64_t kAllRows = 4096;

/// Rows whose values are their numbers, and 1 more where `is_off` says so.
std::vector<RowCase> probe(const std::function<bool(int64_t first, int64_t rows)>& is_off) {
  return dependent_rows(kAllRows, [&](int64_t first, int64_t rows) {
    const at::Tensor x = at::arange(first, first + rows, at::kFloat).view({rows, 1});
    return is_off(first, rows) ? x + 1 : x;
  });
}

TEST(RowIndependence, EqualRowsAreIndependent) {
  EXPECT_THAT(probe([](int64_t, int64_t) { return false; }), IsEmpty());
}

TEST(RowIndependence, FewRowsThatDifferAreFound) {
  const auto found = probe([](int64_t, int64_t rows) { return rows == 1 || rows == 16; });
  EXPECT_THAT(found, ::testing::UnorderedElementsAre(RowCase{1, false}, RowCase{16, false},
                                                     RowCase{1, true}, RowCase{16, true}));
}

TEST(RowIndependence, ManyRowsThatDifferAreFound) {
  // What a probe of 512 rows does not see: another kernel from a thousand rows on.
  const auto found = probe([](int64_t, int64_t rows) { return rows < 2000; });
  EXPECT_THAT(found, Contains(RowCase{1000, false}));
  EXPECT_THAT(found, Each(Field(&RowCase::rows, ::testing::Lt(2000))));
}

TEST(RowIndependence, OneThreadInARegionIsTried) {
  if (at::get_num_threads() < 2) GTEST_SKIP() << "one thread: no region";
  const auto found = probe([](int64_t, int64_t) { return at::in_parallel_region(); });
  EXPECT_THAT(found, Contains(RowCase{kAllRows, true}));
  EXPECT_THAT(found, Contains(RowCase{1, true}));
  EXPECT_THAT(found, Each(Field(&RowCase::is_in_region, true)));
}

TEST(RowIndependence, BothEndsAreTried) {
  EXPECT_THAT(probe([](int64_t first, int64_t rows) { return first == kAllRows - rows && first; }),
              Contains(RowCase{64, false}));
}

}  // namespace
}  // namespace lockstep::ops
