// silu_mul and sigmoid_mul against the float64 formulas and transformers' order of rounding.
// SPDX-License-Identifier: Apache-2.0
#include "ops/activation.h"

#include <cmath>

#include <gtest/gtest.h>

#include <ATen/core/IListRef.h>  // the list of at::cat

#include "base/check.h"
#include "ops/reference/activation.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tests/ops/finite_difference.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"

namespace lockstep::ops {
namespace {

using testing::same_bits;

at::Tensor uniform(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::empty(shape, at::kFloat).uniform_(-4, 4).to(dtype);
}

/// Shapes: [1, values].
at::Tensor row(std::vector<float> values) {
  return at::from_blob(values.data(), {1, static_cast<int64_t>(values.size())}).clone();
}

/// Roundings of `count` results, and 8 units in the last place of float32 for the exponential and
/// the products.
double bound(at::ScalarType dtype, int count) {
  return 8 * 0x1p-23 + (dtype == at::kBFloat16 ? 1.01 * count * 0x1p-8 : 0);
}

TEST(Activation, SiluMulIsTheFormula) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t width : {1, 15, 16, 17, 100, 3072}) {
      const auto x = uniform({13, 2 * width}, dtype);
      EXPECT_CLOSE(silu_mul(x), reference::silu_mul(x.to(at::kDouble)), bound(dtype, 2), 0.0);
    }
}

TEST(Activation, SigmoidMulIsTheFormula) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t width : {1, 15, 16, 17, 100, 2048})
      for (const int64_t gates : {width, int64_t{1}}) {
        const auto x = uniform({13, width}, dtype), gate = uniform({13, gates}, dtype);
        EXPECT_CLOSE(sigmoid_mul(x, gate),
                     reference::sigmoid_mul(x.to(at::kDouble), gate.to(at::kDouble)),
                     bound(dtype, 2), 0.0);
      }
}

/// In whole vectors, and in the rest of a row.
TEST(Activation, RoundsWhereTransformersDoes) {
  for (const int64_t width : {1024, 7}) {
    SCOPED_TRACE(width);
    const auto x = uniform({65536 / width, 2 * width}, at::kBFloat16);
    const auto gate = x.narrow(1, 0, width), up = x.narrow(1, width, width);
    const auto row_gate = gate.narrow(1, 0, 1);
    const auto share_of = [](const at::Tensor& same) {
      return same.to(at::kFloat).mean().item<float>();
    };
    // Last bits of the exponential move few values over a rounding border; a missing rounding moves
    // a fifth of them.
    EXPECT_GT(share_of(silu_mul(x) == at::silu(gate) * up), 0.999);
    EXPECT_GT(share_of(sigmoid_mul(up, gate) == up * at::sigmoid(gate)), 0.999);
    EXPECT_GT(share_of(sigmoid_mul(up, row_gate) == up * at::sigmoid(row_gate)), 0.999);
  }
}

TEST(Activation, HoldsFarFromZero) {
  const auto gate = row({-1e30f, -200.0f, -88.0f, 0.0f, 88.0f, 1e30f});
  const auto silu = silu_mul(at::cat({gate, at::ones_like(gate)}, 1));
  EXPECT_CLOSE(silu, row({0.0f, 0.0f, 0.0f, 0.0f, 88.0f, 1e30f}), 0.0, 1e-30);
  const auto sigmoid = sigmoid_mul(at::ones_like(gate), gate);
  EXPECT_CLOSE(sigmoid, row({0.0f, 0.0f, 0.0f, 0.5f, 1.0f, 1.0f}), 0.0, 1e-30);
}

TEST(Activation, ShowsNaN) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const auto nan = at::full({1, 20}, NAN, dtype), ones = at::ones({1, 20}, dtype);
    EXPECT_TRUE(silu_mul(at::cat({nan, ones}, 1)).isnan().all().item<bool>());
    EXPECT_TRUE(sigmoid_mul(ones, nan).isnan().all().item<bool>());
    // One gate for the whole row.
    EXPECT_TRUE(sigmoid_mul(ones, nan.narrow(1, 0, 1)).isnan().all().item<bool>());
  }
}

TEST(Activation, TakesSlices) {
  const auto fused = uniform({9, 200}, at::kBFloat16);
  const auto a = fused.narrow(1, 10, 60), b = fused.narrow(1, 100, 60);
  EXPECT_TRUE(same_bits(silu_mul(a), silu_mul(a.contiguous())));
  EXPECT_TRUE(same_bits(sigmoid_mul(a, b), sigmoid_mul(a.contiguous(), b.contiguous())));
}

TEST(Activation, SiluMulGradientsAreTheFormulas) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const auto x = uniform({13, 2 * 77}, dtype).set_requires_grad(true);
    const auto dy = uniform({13, 77}, dtype);
    const auto x64 = x.detach().to(at::kDouble).set_requires_grad(true);
    const auto exact = gradients({reference::silu_mul(x64)}, {x64}, {dy.to(at::kDouble)})[0];
    EXPECT_CLOSE(gradients({silu_mul(x)}, {x}, {dy})[0], exact, bound(dtype, 1), 0.0);
  }
}

TEST(Activation, SigmoidMulGradientsAreTheFormulas) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t gates : {77, 1}) {
      const auto x = uniform({13, 77}, dtype).set_requires_grad(true);
      const auto gate = uniform({13, gates}, dtype).set_requires_grad(true);
      const auto dy = uniform({13, 77}, dtype);
      const auto ours = gradients({sigmoid_mul(x, gate)}, {x, gate}, {dy});
      const auto x64 = x.detach().to(at::kDouble).set_requires_grad(true);
      const auto gate64 = gate.detach().to(at::kDouble).set_requires_grad(true);
      const auto exact =
          gradients({reference::sigmoid_mul(x64, gate64)}, {x64, gate64}, {dy.to(at::kDouble)});
      EXPECT_CLOSE(ours[0], exact[0], bound(dtype, 1), 0.0);
      // One gate a row: a sum of 77 terms below 4 * 4 / 4.
      EXPECT_CLOSE(ours[1], exact[1], bound(dtype, 1), gates == 1 ? 77 * 77 * 4 * 0x1p-24 : 0.0);
    }
}

TEST(Activation, GradientsAreTheSlopesOfTheFormulas) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    testing::expect_slopes([](const auto& in) { return silu_mul(in[0]); },
                           [](const auto& in) { return reference::silu_mul(in[0]); },
                           {uniform({4, 2 * 19}, dtype)}, uniform({4, 19}, dtype), bound(dtype, 1));
    for (const int64_t gates : {19, 1})
      testing::expect_slopes([](const auto& in) { return sigmoid_mul(in[0], in[1]); },
                             [](const auto& in) { return reference::sigmoid_mul(in[0], in[1]); },
                             {uniform({4, 19}, dtype), uniform({4, gates}, dtype)},
                             uniform({4, 19}, dtype),
                             // One gate a row: a sum of 19 terms.
                             bound(dtype, 1) + 19 * 0x1p-24);
  }
}

TEST(Activation, TakesNoTokens) {
  EXPECT_EQ(silu_mul(at::zeros({0, 8})).sizes(), at::IntArrayRef({0, 4}));
  EXPECT_EQ(sigmoid_mul(at::zeros({0, 8}), at::zeros({0, 8})).size(0), 0);
}

TEST(Activation, RefusesOtherShapes) {
  EXPECT_ERROR(silu_mul(at::zeros({2, 3})), ShapeError, "bad-shape", "[2, 3]");
  EXPECT_ERROR(sigmoid_mul(at::zeros({2, 4}), at::zeros({2, 2})), ShapeError, "bad-shape",
               "[2, 2]");
}

}  // namespace
}  // namespace lockstep::ops
