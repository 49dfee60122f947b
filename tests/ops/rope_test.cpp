// rope_table and apply_rope against the float64 formula.
// SPDX-License-Identifier: Apache-2.0
#include "ops/rope.h"

#include <cmath>

#include <gtest/gtest.h>

#include <ATen/core/IListRef.h>  // the list of at::cat

#include "base/check.h"
#include "ops/reference/rope.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tests/ops/finite_difference.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"

namespace lockstep::ops {
namespace {

using testing::same_bits;

at::Tensor uniform(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::empty(shape, at::kFloat).uniform_(-2, 2).to(dtype);
}

/// Positions as in a batch of packed sequences: they start again.
at::Tensor positions(int64_t count) { return at::arange(count, at::kLong).remainder(37); }

TEST(Rope, TableIsTheAnglesOfTheFormula) {
  const auto where = at::cat({at::arange(50, at::kLong), at::full({1}, 262143, at::kLong)});
  const auto table = rope_table(where, 64, 1e7);
  EXPECT_EQ(table.scalar_type(), at::kFloat);
  // A frequency is off by two roundings and the power's few; the angle by 8 u times itself, up to
  // 262143.
  EXPECT_CLOSE(table, reference::rope_table(where, 64, 1e7), 0.0, 262143 * 8 * 0x1p-24);
  EXPECT_CLOSE(table.narrow(0, 0, 50), reference::rope_table(where.narrow(0, 0, 50), 64, 1e7), 0.0,
               50 * 8 * 0x1p-24);
}

/// transformers: inv_freq = 1 / theta^(j / R), angles = float(position) inv_freq, both float32.
/// Its cosine and sine are rounded from float64, transformers' are float32's own: one unit apart at
/// most.
TEST(Rope, TableIsTransformersToAUnit) {
  const auto exponents = at::arange(0, 128, 2, at::kFloat) / 128;
  const auto angles = at::outer(positions(60).to(at::kFloat), at::pow(1e6, exponents).reciprocal());
  EXPECT_CLOSE(rope_table(positions(60), 128, 1e6), at::cat({angles.cos(), angles.sin()}, 1), 0.0,
               0x1p-23);
}

/// A library's cosine may have other bits at the end of a tensor than inside.
TEST(Rope, PlaceInTheTableDoesNotMatter) {
  const at::Tensor all = positions(533);
  const at::Tensor table = rope_table(all, 20, 1e4);
  for (int64_t t = 0; t < 533; ++t)
    ASSERT_TRUE(same_bits(rope_table(all.narrow(0, t, 1), 20, 1e4), table.narrow(0, t, 1))) << t;
}

TEST(Rope, IsTheFormula) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const auto& [head_dim, rotary_dim] : std::vector<std::pair<int64_t, int64_t>>{
             {2, 2}, {7, 4}, {64, 64}, {128, 128}, {256, 64}, {70, 66}}) {
      const auto x = uniform({41, 3, head_dim}, dtype);
      const auto table = rope_table(positions(41), rotary_dim, 1e4);
      const auto rounded = table.to(dtype).to(at::kDouble);
      const double rounding = dtype == at::kBFloat16 ? 0x1p-8 : 0x1p-24;
      const auto y = apply_rope(x, table);
      EXPECT_EQ(y.scalar_type(), dtype);
      const auto exact = reference::apply_rope(x.to(at::kDouble), rounded);
      // Two products of at most 4 in float32, then the dtype.
      EXPECT_WITHIN(y, exact, exact.abs() * rounding + 16 * 0x1p-24);
    }
}

TEST(Rope, PassesTheOtherDimensionsThrough) {
  const auto x = uniform({5, 2, 256}, at::kBFloat16);
  const auto y = apply_rope(x, rope_table(positions(5), 64, 1e7));
  EXPECT_TRUE(same_bits(y.narrow(2, 64, 192), x.narrow(2, 64, 192)));
}

TEST(Rope, TakesSlicesOfAFusedProjection) {
  const auto fused = uniform({9, 5, 40}, at::kBFloat16);
  const auto slice = fused.narrow(1, 1, 3).narrow(2, 0, 32);
  const auto table = rope_table(positions(9), 32, 1e4);
  EXPECT_TRUE(same_bits(apply_rope(slice, table), apply_rope(slice.contiguous(), table)));
}

/// Of whole vectors and of a rest.
TEST(Rope, GradientIsTheInverseRotation) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const auto x = uniform({23, 2, 80}, dtype).set_requires_grad(true);
    const auto dy = uniform({23, 2, 80}, dtype);
    const auto table = rope_table(positions(23), 74, 1e4);
    const auto ours = gradients({apply_rope(x, table)}, {x}, {dy})[0];
    const auto x64 = x.detach().to(at::kDouble).set_requires_grad(true);
    const auto exact = gradients({reference::apply_rope(x64, table.to(dtype).to(at::kDouble))},
                                 {x64}, {dy.to(at::kDouble)})[0];
    // Two products of at most 4 in float32, then the dtype.
    EXPECT_WITHIN(ours, exact,
                  exact.abs() * (dtype == at::kBFloat16 ? 0x1p-8 : 0x1p-24) + 16 * 0x1p-24);
  }
}

TEST(Rope, GradientsAreTheSlopesOfTheFormula) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const auto table = rope_table(positions(6), 34, 1e4);
    const auto rounded = table.to(dtype).to(at::kDouble);
    testing::expect_slopes([&](const auto& in) { return apply_rope(in[0], table); },
                           [&](const auto& in) { return reference::apply_rope(in[0], rounded); },
                           {uniform({6, 2, 35}, dtype)}, uniform({6, 2, 35}, dtype),
                           2 * 0x1p-24 + (dtype == at::kBFloat16 ? 0x1p-8 : 0x1p-24));
  }
}

TEST(Rope, TakesNoTokens) {
  EXPECT_EQ(apply_rope(at::zeros({0, 2, 8}), rope_table(positions(0), 4, 1e4)).size(0), 0);
}

TEST(Rope, RefusesATableWiderThanAHead) {
  EXPECT_ERROR(apply_rope(at::zeros({2, 1, 4}), at::zeros({2, 6})), ShapeError, "bad-shape",
               "[2, 6]");
}

}  // namespace
}  // namespace lockstep::ops
