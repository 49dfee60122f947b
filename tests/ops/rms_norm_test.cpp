// rms_norm against the float64 formula and transformers' order of rounding.
// SPDX-License-Identifier: Apache-2.0
#include "ops/reference/rms_norm.h"

#include <cmath>

#include <gtest/gtest.h>

#include "base/check.h"
#include "ops/rms_norm.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tests/ops/finite_difference.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"

namespace lockstep::ops {
namespace {

using testing::same_bits;

constexpr double kEps = 1e-6;
constexpr double kFloatRounding = 0x1p-24, kBFloat16Rounding = 0x1p-8;

at::Tensor uniform(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::empty(shape, at::kFloat).uniform_(-2, 2).to(dtype);
}

double rounding(at::ScalarType dtype) { return dtype == at::kBFloat16 ? kBFloat16Rounding : 0; }

const std::vector<std::vector<int64_t>> kShapes = {
    {1, 1},    {3, 7},    {2, 16}, {5, 63},    {130, 65},    {200, 128},
    {4, 1024}, {2, 8192}, {0, 32}, {9, 3, 40}, {70, 4, 256}, {2, 3, 4, 33}};

TEST(RmsNorm, IsTheFormula) {
  for (const auto kind : {NormKind::kPlain, NormKind::kOnePlus})
    for (const auto dtype : {at::kFloat, at::kBFloat16})
      for (const auto& shape : kShapes) {
        const auto x = uniform(shape, dtype), w = uniform({shape.back()}, dtype);
        const auto expected = reference::rms_norm(x.to(at::kDouble), w.to(at::kDouble), kEps, kind);
        // The sum of D squares, halved by the root; the products; one rounding, or two for kPlain.
        const double bound =
            (static_cast<double>(shape.back()) / 2 + 8) * kFloatRounding + 2.01 * rounding(dtype);
        EXPECT_CLOSE(rms_norm(x, w, kEps, kind), expected, bound, 1e-30);
      }
}

/// What transformers' modules compute, in ATen's operators: the same rounded numbers, but for a
/// last bit of rstd.
at::Tensor transformers_norm(const at::Tensor& x, const at::Tensor& w, NormKind kind) {
  const auto wide = x.to(at::kFloat);
  const auto n = wide * (wide.pow(2).mean(-1, /*keepdim=*/true) + kEps).rsqrt();
  if (kind == NormKind::kPlain) return w * n.to(x.scalar_type());
  return (n * (w.to(at::kFloat) + 1)).to(x.scalar_type());
}

TEST(RmsNorm, RoundsWhereTransformersDoes) {
  for (const auto kind : {NormKind::kPlain, NormKind::kOnePlus}) {
    for (const int64_t columns : {1024, 37}) {
      const auto x = uniform({1024, columns}, at::kBFloat16), w = uniform({columns}, at::kBFloat16);
      const auto same = rms_norm(x, w, kEps, kind) == transformers_norm(x, w, kind);
      // A last bit of rstd moves 2^-15 of the values over a rounding border; a missing rounding
      // moves a fifth of them. The last five of 37 fill no vector.
      EXPECT_GT(same.to(at::kFloat).mean().item<float>(), 0.999) << columns;
      EXPECT_GT(same.narrow(1, columns - 5, 5).to(at::kFloat).mean().item<float>(), 0.999)
          << columns;
    }
  }
}

TEST(RmsNorm, RowsDoNotDependOnOthers) {
  const auto x = uniform({200, 77}, at::kBFloat16), w = uniform({77}, at::kBFloat16);
  const auto all = rms_norm(x, w, kEps, NormKind::kOnePlus);
  for (const int64_t row : {0, 63, 64, 199})
    EXPECT_TRUE(same_bits(rms_norm(x.narrow(0, row, 1), w, kEps, NormKind::kOnePlus),
                          all.narrow(0, row, 1)));
}

TEST(RmsNorm, TakesSlicesOfAFusedProjection) {
  const auto fused = uniform({10, 6, 64}, at::kBFloat16), w = uniform({32}, at::kBFloat16);
  const auto slice = fused.narrow(1, 1, 3).narrow(2, 32, 32);
  EXPECT_TRUE(same_bits(rms_norm(slice, w, kEps, NormKind::kPlain),
                        rms_norm(slice.contiguous(), w, kEps, NormKind::kPlain)));
}

TEST(RmsNorm, TakesAFloat32WeightBesideBFloat16) {
  const auto x = uniform({5, 64}, at::kBFloat16), w = uniform({64}, at::kBFloat16);
  EXPECT_TRUE(same_bits(rms_norm(x, w.to(at::kFloat), kEps, NormKind::kOnePlus),
                        rms_norm(x, w, kEps, NormKind::kOnePlus)));
}

TEST(RmsNorm, GradientsAreTheFormulas) {
  for (const auto kind : {NormKind::kPlain, NormKind::kOnePlus})
    for (const auto dtype : {at::kFloat, at::kBFloat16})
      for (const auto& shape : kShapes) {
        const auto x = uniform(shape, dtype).set_requires_grad(true);
        const auto w = uniform({shape.back()}, dtype).set_requires_grad(true);
        const auto dy = uniform(shape, dtype);
        const auto ours = gradients({rms_norm(x, w, kEps, kind)}, {x, w}, {dy});
        const auto x64 = x.detach().to(at::kDouble).set_requires_grad(true);
        const auto w64 = w.detach().to(at::kDouble).set_requires_grad(true);
        const auto exact = gradients({reference::rms_norm(x64, w64, kEps, kind)}, {x64, w64},
                                     {dy.to(at::kDouble)});
        const auto columns = static_cast<double>(shape.back());
        const double sums = (2 * columns + 16) * kFloatRounding;
        // With D = 1, dx is a difference of equal numbers near 6 / |x|: the bound is for their
        // size.
        const double floor =
            shape.back() == 1 ? 1e-5 / x.detach().abs().min().item<double>() : 1e-30;
        EXPECT_CLOSE(ours[0], exact[0], sums + 1.01 * rounding(dtype), floor);
        // Chains of 64 rows, then of blocks; each term is below 2 max |n|.
        const double rows = static_cast<double>(x.numel()) / columns;
        const double terms = rows * 2 * std::sqrt(columns);
        const double chain = (64 + rows / 64 + columns + 16) * kFloatRounding;
        EXPECT_CLOSE(ours[1], exact[1], 1.01 * rounding(dtype), chain * terms);
        EXPECT_EQ(ours[1].scalar_type(), dtype);
      }
}

TEST(AddRmsNorm, IsTheSumAndItsNorm) {
  for (const auto kind : {NormKind::kPlain, NormKind::kOnePlus})
    for (const auto dtype : {at::kFloat, at::kBFloat16})
      for (const auto& shape : kShapes) {
        const auto x = uniform(shape, dtype), residual = uniform(shape, dtype),
                   w = uniform({shape.back()}, dtype);
        const auto [sum, normed] = add_rms_norm(x, residual, w, kEps, kind);
        EXPECT_TRUE(same_bits(sum, x + residual));
        EXPECT_TRUE(same_bits(normed, rms_norm(x + residual, w, kEps, kind)));
      }
}

/// With gradients for either output, or both.
TEST(AddRmsNorm, GradientsAreThoseOfTheTwoSteps) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const bool reaches_sum : {false, true})
      for (const bool reaches_norm : {false, true}) {
        if (!reaches_sum && !reaches_norm) continue;
        // Whole vectors and a rest for each target.
        const std::vector<int64_t> shape{70, 101};
        const auto leaf = [](at::Tensor value) { return value.detach().set_requires_grad(true); };
        const std::vector<at::Tensor> in{leaf(uniform(shape, dtype)), leaf(uniform(shape, dtype)),
                                         leaf(uniform({shape.back()}, dtype))};
        const auto dsum = uniform(shape, dtype), dnormed = uniform(shape, dtype);
        const auto of = [&](const NormedSum& out, at::ScalarType type,
                            const std::vector<at::Tensor>& inputs) {
          std::vector<at::Tensor> outputs, grads;
          if (reaches_sum) outputs.push_back(out.sum), grads.push_back(dsum.to(type));
          if (reaches_norm) outputs.push_back(out.normed), grads.push_back(dnormed.to(type));
          return gradients(outputs, inputs, grads);
        };
        const auto ours =
            of(add_rms_norm(in[0], in[1], in[2], kEps, NormKind::kOnePlus), dtype, in);
        // The sum as it was rounded, and the rest in float64.
        const auto sum64 = leaf((in[0] + in[1]).to(at::kDouble)), w64 = leaf(in[2].to(at::kDouble));
        const NormedSum exact{sum64 * 1, reference::rms_norm(sum64, w64, kEps, NormKind::kOnePlus)};
        const auto expected = of(exact, at::kDouble, {sum64, w64});
        const double bound = 250 * kFloatRounding + 1.01 * rounding(dtype);
        EXPECT_CLOSE(ours[0], expected[0], bound, 1e-30);
        EXPECT_TRUE(same_bits(ours[0], ours[1]));
        EXPECT_EQ(ours[2].defined(), reaches_norm);
        if (reaches_norm) {
          EXPECT_CLOSE(ours[2], expected[1], bound, 1e-3);
        }
      }
}

TEST(AddRmsNorm, RefusesAResidualOfAnotherShape) {
  EXPECT_ERROR(
      add_rms_norm(at::zeros({2, 4}), at::zeros({2, 3}), at::zeros({4}), kEps, NormKind::kPlain),
      ShapeError, "bad-shape", "[2, 3]");
}

TEST(RmsNorm, GradientsAreTheSlopesOfTheFormula) {
  for (const auto kind : {NormKind::kPlain, NormKind::kOnePlus})
    for (const auto dtype : {at::kFloat, at::kBFloat16})
      testing::expect_slopes(
          [&](const auto& in) { return rms_norm(in[0], in[1], kEps, kind); },
          [&](const auto& in) { return reference::rms_norm(in[0], in[1], kEps, kind); },
          {uniform({5, 19}, dtype), uniform({19}, dtype)}, uniform({5, 19}, dtype),
          (2 * 19 + 16) * kFloatRounding + 1.01 * rounding(dtype));
}

TEST(RmsNorm, ThreadCountDoesNotMatter) {
  const auto x = uniform({1000, 128}, at::kBFloat16).set_requires_grad(true);
  const auto w = uniform({128}, at::kFloat).set_requires_grad(true);
  const auto dy = uniform({1000, 128}, at::kBFloat16);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = gradients({rms_norm(x, w, kEps, NormKind::kPlain)}, {x, w}, {dy});
  at::set_num_threads(3);
  const auto three = gradients({rms_norm(x, w, kEps, NormKind::kPlain)}, {x, w}, {dy});
  at::set_num_threads(threads);
  EXPECT_TRUE(same_bits(one[0], three[0]));
  EXPECT_TRUE(same_bits(one[1], three[1]));
}

TEST(RmsNorm, RefusesAWeightOfAnotherWidth) {
  EXPECT_ERROR(rms_norm(at::zeros({2, 4}), at::zeros({3}), kEps, NormKind::kPlain), ShapeError,
               "bad-shape", "[3]");
}

}  // namespace
}  // namespace lockstep::ops
