// add_low_rank_: values, gradients, and rows whose bits do not depend on the others.
// SPDX-License-Identifier: Apache-2.0
#include "ops/low_rank.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include <ATen/core/IListRef.h>  // the list of at::cat

#include "base/check.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tests/ops/finite_difference.h"
#include "tests/ops/targets.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"

namespace lockstep::ops {
namespace {

using testing::same_bits;

at::Tensor uniform(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::empty(shape, at::kFloat).uniform_(-1, 1).to(dtype);
}

LowRank pair_of(const at::Tensor& a, const at::Tensor& b, int64_t first_row) {
  LowRank pair{.scale = 0.75, .first_row = first_row};
  pair.a = LinearWeight(a);
  pair.b = LinearWeight(b);
  pair.pack();
  return pair;
}

at::Tensor ids(std::initializer_list<int64_t> values) {
  at::Tensor made = at::empty({std::ssize(values)}, at::TensorOptions().dtype(at::kLong));
  std::copy(values.begin(), values.end(), made.mutable_data_ptr<int64_t>());
  return made;
}

/// The sum as its formula, in the dtype of y.
at::Tensor formula(const at::Tensor& y,
                   const at::Tensor& x,
                   const at::Tensor& a,
                   const at::Tensor& b,
                   int64_t first_row,
                   const at::Tensor& rows) {
  at::Tensor added = at::mm(at::mm(x, a.t()), b.t()).mul(0.75);
  if (rows.defined())
    added = at::zeros_like(added).index_copy(0, rows, added.index_select(0, rows));
  const auto options = y.options().requires_grad(false);
  const at::Tensor left = at::zeros({y.size(0), first_row}, options),
                   right = at::zeros({y.size(0), y.size(1) - first_row - b.size(0)}, options);
  return y.add(at::cat({left, added, right}, 1));
}

double rounding(at::ScalarType dtype) { return dtype == at::kBFloat16 ? std::ldexp(1.0, -8) : 0; }

TEST(LowRank, IsTheSum) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t rank : {1, 5, 8, 33})
      for (const at::Tensor& rows : {at::Tensor(), ids({0, 3, 6}), ids({6})}) {
        const at::Tensor y = uniform({7, 50}, dtype), x = uniform({7, 40}, dtype);
        const at::Tensor a = uniform({rank, 40}, at::kFloat), b = uniform({20, rank}, at::kFloat);
        const at::Tensor expected = formula(y.to(at::kDouble), x.to(at::kDouble), a.to(at::kDouble),
                                            b.to(at::kDouble), 25, rows);
        const at::Tensor before = y.clone(), got = add_low_rank_(y, x, pair_of(a, b, 25), rows);
        EXPECT_CLOSE(got, expected, rounding(dtype), 40 * 40 * 33 * 0x1p-24);
        // Columns of other modules keep their bits.
        EXPECT_TRUE(same_bits(got.narrow(1, 0, 25), before.narrow(1, 0, 25)));
        EXPECT_TRUE(same_bits(got.narrow(1, 45, 5), before.narrow(1, 45, 5)));
        EXPECT_EQ(got.const_data_ptr(), y.const_data_ptr());
      }
}

TEST(LowRank, GradientsAreTheSlopesOfTheSum) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const at::Tensor& rows : {at::Tensor(), ids({1, 2, 4})})
      testing::expect_slopes(
          [&](const auto& in) {
            // What linear() gives is no leaf.
            return add_low_rank_(in[0].mul(1), in[1], pair_of(in[2], in[3], 3), rows);
          },
          [&](const auto& in) { return formula(in[0], in[1], in[2], in[3], 3, rows); },
          {uniform({6, 30}, dtype), uniform({6, 17}, dtype), uniform({4, 17}, at::kFloat),
           uniform({21, 4}, at::kFloat)},
          uniform({6, 30}, dtype), 100 * 0x1p-24 + 2 * rounding(dtype));
}

TEST(LowRank, RowsDoNotDependOnTheOthers) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor y = uniform({90, 70}, dtype), x = uniform({90, 64}, dtype);
    const LowRank pair = pair_of(uniform({8, 64}, at::kFloat), uniform({37, 8}, at::kFloat), 20);
    const at::Tensor all = add_low_rank_(y.clone(), x, pair, {});
    for (const int64_t rows : {1, 2, 3, 16, 17, 64})
      for (const int64_t first : {0, 5, 26})
        EXPECT_TRUE(same_bits(
            add_low_rank_(y.narrow(0, first, rows).clone(), x.narrow(0, first, rows), pair, {}),
            all.narrow(0, first, rows)))
            << at::toString(dtype) << ", " << rows << " rows from " << first;
    const at::Tensor some = ids({0, 7, 33, 89}), other = add_low_rank_(y.clone(), x, pair, some);
    EXPECT_TRUE(same_bits(other.index_select(0, some), all.index_select(0, some)));
    EXPECT_TRUE(same_bits(other.narrow(0, 34, 55), y.narrow(0, 34, 55)));
  }
}

TEST(LowRank, RefusesShapesThatDoNotFit) {
  const auto pair = [](int64_t first_row) {
    return pair_of(at::zeros({2, 3}), at::zeros({4, 2}), first_row);
  };
  const at::Tensor y = at::zeros({5, 6}), x = at::zeros({5, 3});
  add_low_rank_(y, x, pair(2), {});
  EXPECT_ERROR(add_low_rank_(y, x, pair(3), {}), ShapeError, "bad-shape", "3 + O <= O'");
  EXPECT_ERROR(add_low_rank_(y, at::zeros({4, 3}), pair(0), {}), ShapeError, "bad-shape", "[4, 3]");
  EXPECT_ERROR(add_low_rank_(y, x.to(at::kBFloat16), pair(0), {}), ShapeError, "bad-shape", "");
}

}  // namespace
}  // namespace lockstep::ops
