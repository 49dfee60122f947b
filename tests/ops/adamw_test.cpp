// AdamW against its formula in float64, and sums of squares that threads cannot change.
// SPDX-License-Identifier: Apache-2.0
#include "ops/adamw.h"

#include <cmath>

#include <gtest/gtest.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/scalar_tensor.h>

#include "ops/reference/adamw.h"
#include "tensor/aten.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"

namespace lockstep::ops {
namespace {

using testing::same_bits;

at::Tensor normal(at::IntArrayRef shape, uint64_t seed) {
  auto generator = at::detail::createCPUGenerator(testing::test_seed(seed));
  return at::randn(shape, generator, at::TensorOptions().dtype(at::kFloat));
}

struct State {
  at::Tensor weight, master, exp_avg, exp_avg_sq, gradient;
};

State make_state(int64_t count, at::ScalarType weight_type, at::ScalarType gradient_type) {
  State s;
  s.master = normal({count}, 1);
  s.weight = weight_type == at::kFloat ? s.master : s.master.to(weight_type);
  s.exp_avg = normal({count}, 2) * 1e-3;
  s.exp_avg_sq = normal({count}, 3).square() * 1e-6;
  s.gradient = (normal({count}, 4) * 1e-3).to(gradient_type);
  return s;
}

constexpr AdamWSettings kSettings{.learning_rate = 1e-2,
                                  .beta1 = 0.9,
                                  .beta2 = 0.95,
                                  .eps = 1e-8,
                                  .weight_decay = 0.1,
                                  .gradient_scale = 0.7,
                                  .step = 3};

void step(const State& s, const AdamWSettings& settings) {
  adamw_step(s.weight, s.master, s.exp_avg, s.exp_avg_sq, s.gradient, settings);
}

TEST(AdamW, EqualsReferenceWithinRounding) {
  const double u = std::pow(2.0, -24);
  for (const int64_t count : {0, 1, 7, 16, 33, 16384, 16385, 40000}) {
    for (const auto weight_type : {at::kFloat, at::kBFloat16}) {
      for (const auto gradient_type : {at::kFloat, at::kBFloat16}) {
        const State s = make_state(count, weight_type, gradient_type);
        const auto expected = reference::adamw_step(
            {s.master.to(at::kDouble), s.exp_avg.to(at::kDouble), s.exp_avg_sq.to(at::kDouble)},
            s.gradient.to(at::kDouble), kSettings);
        const auto before = s.master.to(at::kDouble), m = s.exp_avg.to(at::kDouble);
        step(s, kSettings);
        // Roundings of the constants and of each operation: a few units of every term.
        const auto g = s.gradient.to(at::kDouble).abs() * kSettings.gradient_scale;
        const auto m_bound = (m.abs() + g) * 4 * u;
        const auto v_bound = expected.exp_avg_sq * 6 * u;
        // The update lr m / (sqrt v + eps): m's error over sqrt v, and 8 units of its own.
        const auto denominator =
            expected.exp_avg_sq.sqrt() / std::sqrt(1 - std::pow(0.95, 3)) + 1e-8;
        const auto scale = kSettings.learning_rate / (1 - std::pow(0.9, 3)) / denominator;
        const auto p_bound =
            before.abs() * 4 * u + scale * (m_bound + expected.exp_avg.abs() * 12 * u);
        const auto within = [](const at::Tensor& a, const at::Tensor& b, const at::Tensor& bound) {
          return ((a.to(at::kDouble) - b).abs() <= bound).all().item<bool>();
        };
        EXPECT_TRUE(within(s.exp_avg, expected.exp_avg, m_bound)) << count;
        EXPECT_TRUE(within(s.exp_avg_sq, expected.exp_avg_sq, v_bound)) << count;
        EXPECT_TRUE(within(s.master, expected.value, p_bound)) << count;
        EXPECT_TRUE(same_bits(s.weight, s.master.to(weight_type))) << count;
      }
    }
  }
}

TEST(AdamW, MatchesTorchOverThreeSteps) {
  // torch.optim.AdamW 2.11 (float32, foreach=False): lr 0.01, betas (0.9, 0.95), eps 1e-8, weight
  // decay 0.1.
  const at::Tensor p = at::scalar_tensor(1.0, at::TensorOptions().dtype(at::kFloat)).reshape({1});
  const at::Tensor m = at::zeros({1}), v = at::zeros({1});
  AdamWSettings settings = kSettings;
  settings.gradient_scale = 1;
  const double gradients[] = {0.5, -0.25, 0.125};
  const float expected[] = {0.989000022f, 0.985327363f, 0.980875194f};
  for (int64_t i = 0; i < 3; ++i) {
    settings.step = i + 1;
    adamw_step(p, p, m, v, at::full({1}, gradients[i]), settings);
    EXPECT_NEAR(p.item<float>(), expected[i], 2e-7) << i;
  }
}

TEST(AdamW, RoundsWeightsAsLibtorchDoes) {
  // Halfway cases, both neighbours of them, a carry into the exponent, denormals, infinity and NaN.
  const std::vector<uint32_t> bits = {0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001,
                                      0x3FFFFFFF, 0x00008000, 0x00018000, 0x7F7FFFFF,
                                      0x7F800000, 0xFF800000, 0x7F800001, 0xBF808000};
  const at::Tensor master = at::empty({std::ssize(bits) * 3});
  for (int64_t i = 0; i < master.numel(); ++i)
    std::memcpy(master.mutable_data_ptr<float>() + i,
                &bits[static_cast<size_t>(i % std::ssize(bits))], 4);
  const at::Tensor weight = at::empty_like(master, at::TensorOptions().dtype(at::kBFloat16));
  const at::Tensor m = at::zeros_like(master), v = at::zeros_like(master),
                   g = at::zeros_like(master);
  adamw_step(weight, master, m, v, g, {.learning_rate = 0});
  const at::Tensor expected = master.to(at::kBFloat16);
  for (int64_t i = 0; i < master.numel(); ++i) {
    const float value = expected[i].item<float>(), actual = weight[i].item<float>();
    EXPECT_TRUE(value == actual || (std::isnan(value) && std::isnan(actual)))
        << i << " " << value << " " << actual;
  }
}

TEST(AdamW, ThreadCountDoesNotMatter) {
  const int before = at::get_num_threads();
  std::vector<State> states;
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    states.push_back(make_state(300001, at::kBFloat16, at::kBFloat16));
    step(states.back(), kSettings);
  }
  at::set_num_threads(before);
  EXPECT_TRUE(same_bits(states[0].master, states[1].master));
  EXPECT_TRUE(same_bits(states[0].weight, states[1].weight));
  EXPECT_TRUE(same_bits(states[0].exp_avg_sq, states[1].exp_avg_sq));
}

TEST(AdamW, RefusesWrongTensors) {
  State s = make_state(8, at::kBFloat16, at::kFloat);
  s.exp_avg = at::zeros({9});
  EXPECT_ERROR(step(s, kSettings), ShapeError, "bad-shape", "exp_avg [8]");
  s.exp_avg = at::zeros({8}, at::TensorOptions().dtype(at::kDouble));
  EXPECT_ERROR(step(s, kSettings), ShapeError, "bad-dtype", "exp_avg in float32");
  s.exp_avg = at::zeros({16}).slice(0, 0, 16, 2);
  EXPECT_ERROR(step(s, kSettings), ShapeError, "bad-shape", "not contiguous");
}

TEST(SumOfSquares, EqualsFloat64AndThreadCountDoesNotMatter) {
  const int before = at::get_num_threads();
  for (const int64_t count : {0, 1, 15, 16384, 16385, 500000}) {
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      const auto values = normal({count}, 5).to(dtype);
      at::set_num_threads(1);
      const double one = sum_of_squares(values);
      at::set_num_threads(2);
      const double two = sum_of_squares(values);
      EXPECT_EQ(one, two);
      const double expected = values.to(at::kDouble).square().sum().item<double>();
      EXPECT_NEAR(one, expected, expected * 1e-13);
    }
  }
  at::set_num_threads(before);
}

}  // namespace
}  // namespace lockstep::ops
