// The gated RMS norm against its float64 reference.
// SPDX-License-Identifier: Apache-2.0
#include "ops/reference/gated_rms_norm.h"

#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "ops/rms_norm.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tests/ops/finite_difference.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"

namespace lockstep::ops {
namespace {

using testing::same_bits;
using testing::test_seed;

constexpr double kEps = 5.96e-8;  // half a spacing of float32 at 1
constexpr double kNormEps = 1e-6;

struct Case {
  at::Tensor x, z, weight;
  std::vector<at::Tensor> leaves(at::ScalarType dtype) const {
    std::vector<at::Tensor> out;
    for (const at::Tensor& t : {x, z, weight})
      out.push_back(t.detach().to(dtype).clone().set_requires_grad(true));
    return out;
  }
};

at::Tensor draw_normal(std::mt19937_64& engine, at::IntArrayRef sizes) {
  const at::Tensor out = at::empty(sizes, at::kFloat);
  std::normal_distribution<float> distribution;
  float* data = out.mutable_data_ptr<float>();
  for (int64_t i = 0; i < out.numel(); ++i) data[i] = distribution(engine);
  return out;
}

Case draw_case(std::mt19937_64& engine, int64_t rows, int64_t dim) {
  return {draw_normal(engine, {rows, 2, dim}), draw_normal(engine, {rows, 2, dim}) * 3,
          draw_normal(engine, {dim})};
}

/// A sum of `dim` squares and about ten roundings more; the mean of the gradient is another such
/// sum.
double bound(int64_t dim) { return kEps * (10 + 2 * std::sqrt(static_cast<double>(dim))); }

constexpr int64_t kDims[] = {1, 3, 16, 17, 128, 131};

TEST(GatedRmsNorm, EqualsReference) {
  std::mt19937_64 engine(test_seed(1));
  for (const int64_t dim : kDims) {
    SCOPED_TRACE(dim);
    const Case c = draw_case(engine, 70, dim);
    const auto wide = c.leaves(at::kDouble);
    EXPECT_CLOSE(gated_rms_norm(c.x, c.z, c.weight, kNormEps),
                 reference::gated_rms_norm(wide[0], wide[1], wide[2], kNormEps), bound(dim), 0);
  }
}

/// In whole vectors and in the rest, with an epsilon that matters and with one that does not.
TEST(GatedRmsNorm, RoundsBfloat16Once) {
  std::mt19937_64 engine(test_seed(2));
  for (const double eps : {kNormEps, 0.5}) {
    const Case c = draw_case(engine, 9, 37);
    const at::Tensor by = draw_normal(engine, c.x.sizes()).to(at::kBFloat16);
    std::vector<at::Tensor> narrow = c.leaves(at::kBFloat16), wide;
    narrow[2] = c.weight.clone().set_requires_grad(true);
    for (const at::Tensor& leaf : narrow)
      wide.push_back(leaf.detach().to(at::kFloat).clone().set_requires_grad(true));
    const at::Tensor actual = gated_rms_norm(narrow[0], narrow[1], narrow[2], eps),
                     expected = gated_rms_norm(wide[0], wide[1], wide[2], eps);
    EXPECT_TRUE(same_bits(actual, expected.to(at::kBFloat16)));
    const auto found = gradients({actual}, narrow, {by});
    const auto rounded = gradients({expected}, wide, {by.to(at::kFloat)});
    for (size_t i = 0; i < narrow.size(); ++i)
      EXPECT_TRUE(same_bits(found[i], rounded[i].to(found[i].scalar_type()))) << "input " << i;
  }
}

/// Where the squares are of the size of epsilon.
TEST(GatedRmsNorm, AddsEpsilonToTheMean) {
  std::mt19937_64 engine(test_seed(7));
  for (const int64_t dim : kDims) {
    SCOPED_TRACE(dim);
    const Case c = draw_case(engine, 20, dim);
    const auto wide = c.leaves(at::kDouble);
    EXPECT_CLOSE(gated_rms_norm(c.x, c.z, c.weight, 0.5),
                 reference::gated_rms_norm(wide[0], wide[1], wide[2], 0.5), bound(dim), 0);
  }
}

TEST(GatedRmsNorm, GradientsEqualAutogradOfReference) {
  std::mt19937_64 engine(test_seed(3));
  for (const int64_t dim : kDims) {
    SCOPED_TRACE(dim);
    const Case c = draw_case(engine, 70, dim);
    const at::Tensor by = draw_normal(engine, c.x.sizes());
    const auto leaves = c.leaves(at::kFloat), wide = c.leaves(at::kDouble);
    const auto actual =
        gradients({gated_rms_norm(leaves[0], leaves[1], leaves[2], kNormEps)}, leaves, {by});
    const auto expected =
        gradients({reference::gated_rms_norm(wide[0], wide[1], wide[2], kNormEps)}, wide,
                  {by.to(at::kDouble)});
    // dx = r (dn - n mean(dn n)) may cancel, with few elements entirely: its error goes by the size
    // of r dn.
    const at::Tensor rstd = (wide[0] * wide[0]).mean(-1, true).add(kNormEps).rsqrt();
    const at::Tensor terms = by * wide[2] * wide[1] * wide[1].sigmoid() * rstd;
    EXPECT_CLOSE(actual[0], expected[0], 0, bound(dim) * terms.abs().max().item<double>());
    EXPECT_CLOSE(actual[1], expected[1], bound(dim), 0);
    // dw sums 140 terms, which may cancel.
    const at::Tensor summed = by * wide[0] * rstd * wide[1] * wide[1].sigmoid();
    EXPECT_WITHIN(actual[2], expected[2],
                  summed.abs().sum(at::IntArrayRef{0, 1}) * (bound(dim) + kEps * std::sqrt(140.0)));
  }
}

TEST(GatedRmsNorm, GradientsInBfloat16EqualReference) {
  std::mt19937_64 engine(test_seed(4));
  for (const int64_t dim : {128, 131}) {
    SCOPED_TRACE(dim);
    const Case c = draw_case(engine, 70, dim);
    auto leaves = c.leaves(at::kBFloat16);
    leaves[2] = c.weight.clone().set_requires_grad(true);
    std::vector<at::Tensor> wide;
    for (const at::Tensor& leaf : leaves)
      wide.push_back(leaf.detach().to(at::kDouble).set_requires_grad(true));
    const at::Tensor by = draw_normal(engine, c.x.sizes()).to(at::kBFloat16);
    const auto actual =
        gradients({gated_rms_norm(leaves[0], leaves[1], leaves[2], kNormEps)}, leaves, {by});
    const auto expected =
        gradients({reference::gated_rms_norm(wide[0], wide[1], wide[2], kNormEps)}, wide,
                  {by.to(at::kDouble)});
    EXPECT_CLOSE(actual[0], expected[0], 1 / 256.0, 0);
    EXPECT_CLOSE(actual[1], expected[1], 1 / 256.0, 0);
    EXPECT_EQ(actual[2].scalar_type(), at::kFloat);
    EXPECT_CLOSE(actual[2], expected[2], bound(dim) * std::sqrt(140.0), 0);
  }
}

TEST(GatedRmsNorm, GradientsAreTheSlopesOfTheFormula) {
  std::mt19937_64 engine(test_seed(5));
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const Case c = draw_case(engine, 5, 19);
    testing::expect_slopes(
        [](const auto& in) { return gated_rms_norm(in[0], in[1], in[2], kNormEps); },
        [](const auto& in) { return reference::gated_rms_norm(in[0], in[1], in[2], kNormEps); },
        {c.x.to(dtype), c.z.to(dtype), c.weight}, draw_normal(engine, c.x.sizes()).to(dtype),
        // dx cancels: its error goes by terms that are a few times its size.
        4 * bound(19) + (dtype == at::kBFloat16 ? 1 / 256.0 : 0));
  }
}

TEST(GatedRmsNorm, RowsAndThreadsDoNotMatter) {
  std::mt19937_64 engine(test_seed(6));
  const Case c = draw_case(engine, 200, 128);
  const int before = at::get_num_threads();
  const auto run = [&](int threads) {
    at::set_num_threads(threads);
    const auto leaves = c.leaves(at::kFloat);
    const at::Tensor out = gated_rms_norm(leaves[0], leaves[1], leaves[2], kNormEps);
    auto results = gradients({out}, leaves, {at::ones_like(out)});
    results.push_back(out.detach());
    return results;
  };
  const auto one = run(1), three = run(3);
  at::set_num_threads(before);
  for (size_t j = 0; j < one.size(); ++j) EXPECT_TRUE(same_bits(one[j], three[j]));
  const at::Tensor row =
      gated_rms_norm(c.x.narrow(0, 77, 1), c.z.narrow(0, 77, 1), c.weight, kNormEps);
  EXPECT_TRUE(same_bits(row, one[3].narrow(0, 77, 1)));
}

TEST(GatedRmsNorm, NaNStaysNaN) {
  const at::Tensor x = at::ones({1, 20}), z = at::ones({1, 20}), weight = at::ones({20});
  z.select(1, 3).fill_(std::nan(""));
  const at::Tensor out = gated_rms_norm(x, z, weight, kNormEps);
  EXPECT_TRUE(std::isnan(out.select(1, 3).item<float>()));
  EXPECT_FALSE(std::isnan(out.select(1, 4).item<float>()));
}

TEST(GatedRmsNorm, RefusesWrongShapes) {
  const at::Tensor x = at::zeros({5, 3});
  EXPECT_ERROR(gated_rms_norm(x, at::zeros({5, 4}), at::ones({3}), kNormEps), ShapeError,
               "bad-shape", "[5, 4]");
  EXPECT_ERROR(gated_rms_norm(x, x, at::ones({4}), kNormEps), ShapeError, "bad-shape",
               "weight [D]");
}

}  // namespace
}  // namespace lockstep::ops
