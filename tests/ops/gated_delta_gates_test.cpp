// The gates of the gated delta rule against their float64 reference.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include <gtest/gtest.h>

#include "ops/gated_delta.h"
#include "ops/reference/gated_delta.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tests/ops/draw.h"
#include "tests/ops/finite_difference.h"
#include "tests/support/expect_close.h"

namespace lockstep::ops {
namespace {

using testing::Draw;
using testing::same_bits;
using testing::test_seed;

constexpr double kEps = 5.96e-8;  // half a spacing of float32 at 1
constexpr double kBfloat16Rounding = 0x1p-8;

at::Tensor to_double(const at::Tensor& x) { return x.detach().to(at::kDouble); }

TEST(GatedDeltaGates, EqualReference) {
  Draw draw(test_seed(18));
  const at::Tensor a = draw.normal({37, 3}) * 12, b = draw.normal({37, 3}) * 4;
  const at::Tensor A_log = draw.normal({3}), dt_bias = draw.normal({3});
  const auto actual = gated_delta_gates(a, b, A_log, dt_bias);
  const auto expected = reference::gated_delta_gates(to_double(a), to_double(b), to_double(A_log),
                                                     to_double(dt_bias));
  // a + dt_bias, softplus, exp and the product round once each; softplus follows its argument's
  // error.
  EXPECT_CLOSE(actual.log_decay, expected.log_decay, 8 * kEps, 0);
  EXPECT_CLOSE(actual.beta, expected.beta, 4 * kEps, 0);
  EXPECT_EQ(gated_delta_gates(a.to(at::kBFloat16), b, A_log, dt_bias).log_decay.scalar_type(),
            at::kFloat);
}

TEST(GatedDeltaGates, GradientsEqualAutogradOfReference) {
  Draw draw(test_seed(19));
  std::vector<at::Tensor> leaves{draw.normal({37, 3}) * 12, draw.normal({37, 3}), draw.normal({3}),
                                 draw.normal({3})},
      wide;
  for (at::Tensor& x : leaves)
    wide.push_back(to_double(x).set_requires_grad(true)), x.set_requires_grad(true);
  const at::Tensor by_decay = draw.normal({37, 3}), by_beta = draw.normal({37, 3});
  const auto out = gated_delta_gates(leaves[0], leaves[1], leaves[2], leaves[3]);
  const auto actual = gradients({out.log_decay, out.beta}, leaves, {by_decay, by_beta});
  const auto truth = reference::gated_delta_gates(wide[0], wide[1], wide[2], wide[3]);
  const auto expected =
      gradients({truth.log_decay, truth.beta}, wide, {to_double(by_decay), to_double(by_beta)});
  for (size_t j = 0; j < 4; ++j) EXPECT_CLOSE(actual[j], expected[j], 8 * kEps * std::sqrt(37), 0);
}

TEST(GatedDeltaGates, GradientsAreTheSlopesOfTheFormula) {
  Draw draw(test_seed(25));
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor by_decay = draw.normal({7, 3}), by_beta = draw.normal({7, 3});
    const auto weighted = [&](const GatedDeltaGates& out) {
      return (out.log_decay * by_decay).sum(at::kDouble) + (out.beta * by_beta).sum(at::kDouble);
    };
    testing::expect_slopes(
        [&](const auto& x) { return weighted(gated_delta_gates(x[0], x[1], x[2], x[3])); },
        [&](const auto& x) {
          return weighted(reference::gated_delta_gates(x[0], x[1], x[2], x[3]));
        },
        {draw.normal({7, 3}).to(dtype), draw.normal({7, 3}).to(dtype), draw.normal({3}),
         draw.normal({3}).to(dtype)},
        at::ones({}, at::kDouble),
        8 * kEps * std::sqrt(7) + (dtype == at::kBFloat16 ? kBfloat16Rounding : 0));
  }
}

TEST(GatedDeltaGates, RowsDoNotDependOnTheirPlace) {
  Draw draw(test_seed(20));
  const at::Tensor a = draw.normal({101, 3}), b = draw.normal({101, 3}), A_log = draw.normal({3}),
                   dt_bias = draw.normal({3});
  const auto whole = gated_delta_gates(a, b, A_log, dt_bias);
  for (const int64_t first : {0, 1, 50, 97}) {
    const auto part =
        gated_delta_gates(a.narrow(0, first, 4), b.narrow(0, first, 4), A_log, dt_bias);
    EXPECT_TRUE(same_bits(part.log_decay, whole.log_decay.narrow(0, first, 4)));
    EXPECT_TRUE(same_bits(part.beta, whole.beta.narrow(0, first, 4)));
  }
}

}  // namespace
}  // namespace lockstep::ops
