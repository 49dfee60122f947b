// linear: values, gradients, and rows whose bits do not depend on the batch around them.
// SPDX-License-Identifier: Apache-2.0
#include "ops/linear.h"

#include <cmath>

#include <gtest/gtest.h>

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
using testing::some_of;

at::Tensor uniform(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::empty(shape, at::kFloat).uniform_(-1, 1).to(dtype);
}

LinearWeight packed(const at::Tensor& weight) {
  LinearWeight w(weight);
  w.pack();
  return w;
}

/// Worst case of a sum of I products of numbers below 1 in float32.
double sum_bound(int64_t inputs) {
  const double sum = static_cast<double>(inputs);
  return sum * sum * std::ldexp(1.0, -24);
}
/// Half a unit in the last place of the result's dtype, of the largest element.
double rounding(at::ScalarType dtype) { return dtype == at::kBFloat16 ? std::ldexp(1.0, -8) : 0; }

TEST(Linear, IsTheProduct) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t inputs : {1, 7, 64, 200})
      for (const int64_t rows : {0, 1, 2, 33}) {
        const auto x = uniform({rows, inputs}, dtype), w = uniform({19, inputs}, dtype);
        const auto expected = at::matmul(x.to(at::kDouble), w.to(at::kDouble).t());
        EXPECT_CLOSE(linear(x, packed(w)), expected, rounding(dtype), sum_bound(inputs));
      }
}

/// Libtorch's product would take it, with rows that depend on their number.
TEST(Linear, RefusesAWeightThatIsNotPacked) {
  EXPECT_ERROR(linear(at::zeros({2, 3}), LinearWeight(at::zeros({4, 3}))), ShapeError, "not-packed",
               "expected a weight [4, 3] that was packed");
}

/// The property that sampling and training share their bits by. The shapes are where oneDNN takes
/// other paths for few rows.
TEST(Linear, RowsDoNotDependOnBatch) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const auto& [inputs, outputs] : some_of<std::pair<int64_t, int64_t>>({{64, 96},
                                                                               {72, 2048},
                                                                               {256, 1024},
                                                                               {384, 1024},
                                                                               {392, 1024},
                                                                               {512, 2048},
                                                                               {1000, 48},
                                                                               {2048, 256},
                                                                               {4096, 64}})) {
      const auto x = uniform({600, inputs}, dtype);
      const auto weight = packed(uniform({outputs, inputs}, dtype));
      const auto all = linear(x, weight);
      for (const int64_t rows : {1, 2, 3, 8, 15, 16, 17, 64, 65, 512})
        for (const int64_t first : {0, 5, 88})
          EXPECT_TRUE(
              same_bits(linear(x.narrow(0, first, rows), weight), all.narrow(0, first, rows)))
              << at::toString(dtype) << ", " << inputs << " x " << outputs << ", " << rows
              << " rows from " << first;
    }
}

TEST(Linear, ThreadCountDoesNotMatter) {
  const auto x = uniform({65, 2048}, at::kBFloat16);
  const auto weight = packed(uniform({128, 2048}, at::kBFloat16));
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = linear(x, weight);
  at::set_num_threads(2);
  const auto two = linear(x, weight);
  at::set_num_threads(threads);
  EXPECT_TRUE(same_bits(one, two));
}

TEST(Linear, PackAgainFollowsAChangedWeight) {
  auto weight = packed(at::ones({2, 3}));
  weight.weight.mul_(2);
  weight.pack();
  EXPECT_CLOSE(linear(at::ones({1, 3}), weight), at::full({1, 2}, 6.0), 0.0, 0.0);
}

/// Sizes below, at and beyond a tile, a panel and a chain of 256.
TEST(Linear, GradientsAreTheProducts) {
  struct Shape {
    int64_t rows, inputs, outputs;
  };
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const auto& [rows, inputs, outputs] : std::vector<Shape>{
             {20, 30, 10}, {1, 1, 1}, {3, 17, 33}, {97, 64, 16}, {300, 48, 40}, {33, 130, 259}}) {
      SCOPED_TRACE(::testing::Message() << rows << " " << inputs << " " << outputs);
      const auto x = uniform({rows, inputs}, dtype).set_requires_grad(true);
      const auto w = uniform({outputs, inputs}, dtype).set_requires_grad(true);
      const auto dy = uniform({rows, outputs}, dtype);
      const auto g = gradients({linear(x, packed(w))}, {x, w}, {dy});
      const auto wide = dy.to(at::kDouble);
      EXPECT_EQ(g[1].scalar_type(), dtype);
      EXPECT_CLOSE(g[0], at::mm(wide, w.to(at::kDouble)), rounding(dtype), sum_bound(outputs));
      EXPECT_CLOSE(g[1], at::mm(wide.t(), x.to(at::kDouble)), rounding(dtype), sum_bound(rows));
    }
}

TEST(Linear, GradientsAreTheSlopesOfTheProduct) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    testing::expect_slopes([](const auto& in) { return linear(in[0], packed(in[1])); },
                           [](const auto& in) { return at::mm(in[0], in[1].t()); },
                           {uniform({7, 19}, dtype), uniform({21, 19}, dtype)},
                           uniform({7, 21}, dtype), 21 * 0x1p-24 + rounding(dtype));
}

/// A frozen weight (an adapter's base) takes no gradient, and passes one on.
TEST(Linear, FrozenWeightPassesGradientsOn) {
  const auto x = uniform({4, 6}, at::kFloat).set_requires_grad(true);
  const auto w = uniform({5, 6}, at::kFloat);
  const auto y = linear(x, packed(w));
  const auto dy = at::ones_like(y);
  EXPECT_CLOSE(gradients({y}, {x}, {dy})[0], at::mm(dy, w), 1e-6, 0.0);
}

TEST(Linear, WithoutGradientModeHasNoHistory) {
  const auto w = uniform({5, 6}, at::kFloat).set_requires_grad(true);
  at::NoGradGuard no_grad;
  EXPECT_FALSE(linear(uniform({1, 6}, at::kFloat), packed(w)).requires_grad());
}

TEST(Linear, RefusesOtherShapesAndDtypes) {
  const LinearWeight weight(at::zeros({4, 3}));
  EXPECT_ERROR(linear(at::zeros({2, 5}), weight), ShapeError, "bad-shape", "[2, 5]");
  EXPECT_ERROR(linear(at::zeros({2, 3}, at::kBFloat16), weight), ShapeError, "bad-dtype", "Float");
}

}  // namespace
}  // namespace lockstep::ops
