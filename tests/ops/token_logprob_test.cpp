// Log-probabilities against their formula in float64, and the bits that trainer, scorer and sampler
// must share.
// SPDX-License-Identifier: Apache-2.0
#include "ops/token_logprob.h"

#include <cmath>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/one_hot.h>

#include "ops/cpu/token_logprob.h"
#include "ops/kernel_data.h"
#include "ops/reference/token_logprob.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tests/ops/finite_difference.h"
#include "tests/ops/targets.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"

namespace lockstep::ops {
namespace {

using testing::same_bits;

struct Case {
  at::Tensor hidden, targets;
  VocabularyHead head;
};

struct Shape {
  int64_t rows, model_dim, vocabulary;
};

Case make_case(const Shape& shape, at::ScalarType dtype, uint64_t seed) {
  auto generator = at::detail::createCPUGenerator(seed);
  const auto normal = [&](int64_t a, int64_t b) {
    return at::randn({a, b}, generator, at::TensorOptions().dtype(at::kDouble));
  };
  Case c;
  c.hidden = normal(shape.rows, shape.model_dim).to(dtype);
  // Logits of standard deviation 2.
  c.head = VocabularyHead(
      (normal(shape.vocabulary, shape.model_dim) * 2 / std::sqrt(shape.model_dim)).to(dtype));
  c.head.pack();
  c.targets = at::randint(0, shape.vocabulary, {shape.rows}, generator,
                          at::TensorOptions().dtype(at::kLong));
  return c;
}

double unit_roundoff(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? std::pow(2.0, -8) : std::pow(2.0, -24);
}

/// The most by which a logit can be off: the sum of D products in float32, and its rounding to the
/// dtype.
double logit_error(const Case& c) {
  if (c.hidden.size(0) == 0) return 0;
  const auto h = c.hidden.to(at::kDouble).abs(), w = c.head.weight.detach().to(at::kDouble).abs();
  const double absolute_sum = at::mm(h, w.t()).max().item<double>();
  const double largest =
      at::mm(c.hidden.detach().to(at::kDouble), c.head.weight.detach().to(at::kDouble).t())
          .abs()
          .max()
          .item<double>();
  return static_cast<double>(h.size(1)) * std::pow(2.0, -24) * absolute_sum +
         unit_roundoff(c.hidden.scalar_type()) * largest;
}

/// What float32 adds after the logits: exp, sums and logarithm are within a few units of the last
/// place.
constexpr double kTail = 8.0 / (1 << 24);

const std::vector<Shape> kShapes = {{0, 8, 17},    {1, 33, 17},   {2, 8, 8191},   {63, 32, 300},
                                    {64, 8, 8193}, {65, 8, 8192}, {5, 16, 16484}, {513, 16, 100}};

class TokenLogprob : public ::testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(,
                         TokenLogprob,
                         ::testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& type) { return std::string(at::toString(type.param)); });

TEST_P(TokenLogprob, EqualsReferenceWithinRoundingOfLogits) {
  for (const Shape& shape : testing::some_of(kShapes)) {
    SCOPED_TRACE(::testing::Message()
                 << shape.rows << " " << shape.model_dim << " " << shape.vocabulary);
    const Case c = make_case(shape, GetParam(), testing::test_seed(1));
    for (const double temperature : {1.0, 0.6}) {
      const auto actual = token_logprobs(c.hidden, c.head, c.targets, temperature, true);
      const auto h = c.hidden.to(at::kDouble), w = c.head.weight.to(at::kDouble);
      const double error = logit_error(c) / temperature;
      // log p = l - log sum exp l: both terms move by at most the logits' error.
      const double rounding = unit_roundoff(at::kFloat);
      EXPECT_CLOSE(actual.logprobs, reference::token_logprobs(h, w, c.targets, temperature),
                   rounding, 2 * error + kTail);
      // dH = -sum p (log p + H) dl, and sum p |log p + H| <= 2 H.
      const auto entropy = reference::token_entropy(h, w, temperature);
      const double largest = shape.rows ? entropy.max().item<double>() : 0;
      EXPECT_CLOSE(actual.entropy, entropy, rounding, 2 * largest * error + 4 * kTail);
    }
  }
}

TEST(TokenLogprobs, OfGivenLogitsAreExactToFloat32) {
  auto generator = at::detail::createCPUGenerator(testing::test_seed(2));
  for (const int64_t vocabulary : {1, 15, 16, 127, 128, 8192, 8193, 20000}) {
    const auto logits =
        at::randn({9, vocabulary}, generator, at::TensorOptions().dtype(at::kFloat)) * 5;
    const auto targets =
        at::randint(0, vocabulary, {9}, generator, at::TensorOptions().dtype(at::kLong));
    for (const double temperature : {1.0, 0.5, 1.7}) {
      const auto expected = at::gather(at::log_softmax(logits.to(at::kDouble) / temperature, 1), 1,
                                       targets.unsqueeze(1))
                                .squeeze(1);
      EXPECT_CLOSE(logprobs_of_logits(logits, targets, temperature), expected,
                   unit_roundoff(at::kFloat), kTail);
    }
  }
}

TEST_P(TokenLogprob, LogprobsOfLogitsEqualTokenLogprobs) {
  for (const Shape& shape : testing::some_of(kShapes)) {
    const Case c = make_case(shape, GetParam(), testing::test_seed(3));
    for (const double temperature : {1.0, 0.7}) {
      const auto logits = vocabulary_logits(c.hidden, c.head);
      const auto direct = token_logprobs(c.hidden, c.head, c.targets, temperature, true).logprobs;
      EXPECT_TRUE(same_bits(logprobs_of_logits(logits, c.targets, temperature), direct));
      for (int64_t row = 0; row < logits.size(0); ++row) {
        const std::span values(logits.const_data_ptr<float>() + row * logits.size(1),
                               static_cast<size_t>(logits.size(1)));
        const int64_t target = c.targets.const_data_ptr<int64_t>()[row];
        EXPECT_EQ(
            normalizer_of_logits(values, temperature).logprob(values[static_cast<size_t>(target)]),
            direct.const_data_ptr<float>()[row]);
      }
    }
  }
}

TEST_P(TokenLogprob, RowsDoNotDependOnBatch) {
  for (const int64_t model_dim : testing::some_of<int64_t>({64, 512, 2048})) {
    const Case c = make_case({600, model_dim, 2100}, GetParam(), testing::test_seed(4));
    const auto all = token_logprobs(c.hidden, c.head, c.targets, 0.9, true);
    for (const auto& [first, rows] : std::vector<std::pair<int64_t, int64_t>>{
             {0, 1}, {599, 1}, {511, 2}, {100, 3}, {37, 15}, {500, 100}, {0, 513}}) {
      const auto part = token_logprobs(c.hidden.narrow(0, first, rows), c.head,
                                       c.targets.narrow(0, first, rows), 0.9, true);
      EXPECT_TRUE(same_bits(part.logprobs, all.logprobs.narrow(0, first, rows)))
          << first << " " << rows;
      EXPECT_TRUE(same_bits(part.entropy, all.entropy.narrow(0, first, rows)))
          << first << " " << rows;
    }
  }
}

TEST_P(TokenLogprob, ThreadCountDoesNotMatter) {
  const Case c = make_case({130, 96, 9000}, GetParam(), testing::test_seed(5));
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = token_logprobs(c.hidden, c.head, c.targets, 1, true);
  at::set_num_threads(2);
  const auto two = token_logprobs(c.hidden, c.head, c.targets, 1, true);
  at::set_num_threads(before);
  EXPECT_TRUE(same_bits(one.logprobs, two.logprobs));
  EXPECT_TRUE(same_bits(one.entropy, two.entropy));
}

TEST_P(TokenLogprob, GradientsEqualReferenceWithinRounding) {
  const double u = unit_roundoff(GetParam());
  for (const Shape& shape : testing::some_of(kShapes)) {
    SCOPED_TRACE(::testing::Message()
                 << shape.rows << " " << shape.model_dim << " " << shape.vocabulary);
    Case c = make_case(shape, GetParam(), testing::test_seed(6));
    const double temperature = 0.8;
    auto generator = at::detail::createCPUGenerator(testing::test_seed(7));
    const auto dlogprobs =
        at::randn({shape.rows}, generator, at::TensorOptions().dtype(at::kFloat));
    c.hidden.set_requires_grad(true);
    c.head.weight.set_requires_grad(true);
    const auto out = token_logprobs(c.hidden, c.head, c.targets, temperature, true);
    ASSERT_TRUE(out.logprobs.requires_grad());
    const auto actual = gradients({out.logprobs}, {c.hidden, c.head.weight}, {dlogprobs});

    const auto h = c.hidden.detach().to(at::kDouble).set_requires_grad(true);
    const auto w = c.head.weight.detach().to(at::kDouble).set_requires_grad(true);
    const auto expected = gradients({reference::token_logprobs(h, w, c.targets, temperature)},
                                    {h, w}, {dlogprobs.to(at::kDouble)});
    ASSERT_EQ(actual[0].scalar_type(), GetParam());
    ASSERT_EQ(actual[1].scalar_type(), GetParam());

    // |dlogit| <= (onehot + p) |dlogprob| / T, each off by a relative error from p, its rounding,
    // and a rounding of a product and of the result.
    at::NoGradGuard no_grad;
    const auto p = at::softmax(at::mm(h, w.t()) / temperature, 1);
    const auto magnitude = (at::one_hot(c.targets, shape.vocabulary) + p) *
                           (dlogprobs.to(at::kDouble).abs() / temperature).unsqueeze(1);
    const double relative = 2 * logit_error(c) / temperature + 3 * u + 2 * kTail +
                            std::sqrt(shape.vocabulary + shape.rows) * unit_roundoff(at::kFloat);
    const auto dh_bound = at::mm(magnitude, w.abs()) * relative;
    const auto dw_bound = at::mm(magnitude.t(), h.abs()) * relative;
    EXPECT_TRUE(((actual[0].to(at::kDouble) - expected[0]).abs() <= dh_bound).all().item<bool>());
    EXPECT_TRUE(((actual[1].to(at::kDouble) - expected[1]).abs() <= dw_bound).all().item<bool>());
  }
}

/// The gradients above pass through products. The kernel's own are (onehot - p) scale with one
/// rounding, element by element: of a token that is almost sure as well, whose 1 - p a rounded p
/// would not leave.
TEST_P(TokenLogprob, LogitGradientsRoundOnce) {
  auto generator = at::detail::createCPUGenerator(testing::test_seed(12));
  const double u = unit_roundoff(GetParam()), u32 = unit_roundoff(at::kFloat);
  for (const int64_t columns : {1, 7, 16, 37, 300})
    for (const double lead : {0.0, 8.0, 12.0}) {
      SCOPED_TRACE(::testing::Message() << columns << " columns, lead " << lead);
      auto logits = at::randn({columns}, generator, at::TensorOptions().dtype(at::kDouble)) * 2;
      const int64_t target = columns / 2;
      logits[target] += lead;
      logits = logits.to(GetParam());
      const float inverse_temperature = 1.25f;
      const auto exact = logits.to(at::kDouble);
      cpu::LogprobRow row{.max = exact.max().item<float>(),
                          .log_sum = 0,
                          .inverse_temperature = inverse_temperature,
                          .scale = 0.37f,
                          .target = target};
      // A token of another block takes a share as well.
      row.log_sum = static_cast<float>(
          std::log(((exact - row.max) * inverse_temperature).exp().sum().item<double>() + 1e-5));
      const auto x = (exact - row.max) * inverse_temperature, power = x - row.log_sum;
      auto expected = -power.exp() * row.scale;
      expected[target] = -power[target].expm1() * row.scale;
      // The exponent's three roundings, exp itself, and a product.
      const auto of_exponent = (x.abs() + std::abs(row.log_sum)) * (3 * u32);
      const auto bounds = power.exp() * row.scale * of_exponent + expected.abs() * (8 * u32 + u);
      for_dtype(GetParam(), "test", [&](auto tag) {
        cpu::logprob_gradient(elements<decltype(tag)>(logits), columns, row);
      });
      EXPECT_WITHIN(logits, expected, bounds);
    }
}

/// Wherever the largest one stands; bfloat16 logits give the bits of float32 ones.
TEST(TokenLogprobs, TheLargestLogitIsFoundEverywhere) {
  auto generator = at::detail::createCPUGenerator(testing::test_seed(13));
  for (const int64_t columns : {1, 16, 37, 100})
    for (int64_t place = 0; place < columns; ++place) {
      auto logits = at::randn({columns}, generator, at::TensorOptions().dtype(at::kFloat));
      logits[place] = 20;
      logits = logits.to(at::kBFloat16);
      const auto wide = logits.to(at::kFloat);
      const auto part = cpu::log_sum_exp(const_elements<float>(wide), columns, 0.5f, true);
      EXPECT_EQ(part.max, 20) << columns << " " << place;
      const auto narrow = cpu::log_sum_exp(const_elements<uint16_t>(logits), columns, 0.5f, true);
      EXPECT_EQ(narrow.max, part.max);
      EXPECT_EQ(narrow.sum, part.sum);
      EXPECT_EQ(narrow.weighted, part.weighted);
    }
}

TEST_P(TokenLogprob, GradientsAreTheSlopesOfTheFormula) {
  const Case c = make_case({5, 16, 8200}, GetParam(), testing::test_seed(8));
  const double temperature = 0.9;
  testing::expect_slopes(
      [&](const auto& in) {
        VocabularyHead head(in[1]);
        head.pack();
        return token_logprobs(in[0], head, c.targets, temperature, false).logprobs;
      },
      [&](const auto& in) {
        return reference::token_logprobs(in[0], in[1], c.targets, temperature);
      },
      {c.hidden, c.head.weight}, at::linspace(-1, 1, 5),
      // As in GradientsEqualReferenceWithinRounding.
      2 * logit_error(c) / temperature + 3 * unit_roundoff(GetParam()) + 2 * kTail +
          std::sqrt(8205) * unit_roundoff(at::kFloat));
}

/// Of a weighted sum of log-probabilities and entropies, and of entropies alone.
TEST_P(TokenLogprob, EntropyGradientsEqualReferenceWithinRounding) {
  const double u = unit_roundoff(GetParam()), temperature = 0.8;
  for (const Shape& shape : testing::some_of(kShapes)) {
    SCOPED_TRACE(::testing::Message()
                 << shape.rows << " " << shape.model_dim << " " << shape.vocabulary);
    Case c = make_case(shape, GetParam(), testing::test_seed(14));
    auto generator = at::detail::createCPUGenerator(testing::test_seed(15));
    const auto normal = [&] {
      return at::randn({shape.rows}, generator, at::TensorOptions().dtype(at::kFloat));
    };
    const auto dlogprobs = normal(), dentropy = normal();
    c.hidden.set_requires_grad(true);
    c.head.weight.set_requires_grad(true);
    const auto h = c.hidden.detach().to(at::kDouble).set_requires_grad(true);
    const auto w = c.head.weight.detach().to(at::kDouble).set_requires_grad(true);
    for (const bool has_logprobs : {true, false}) {
      const auto out = token_logprobs(c.hidden, c.head, c.targets, temperature, true);
      const auto wanted = reference::token_entropy(h, w, temperature);
      std::vector<at::Tensor> outputs{out.entropy}, expected_outputs{wanted}, from{dentropy},
          expected_from{dentropy.to(at::kDouble)};
      if (has_logprobs) {
        outputs.push_back(out.logprobs);
        from.push_back(dlogprobs);
        expected_outputs.push_back(reference::token_logprobs(h, w, c.targets, temperature));
        expected_from.push_back(dlogprobs.to(at::kDouble));
      }
      const auto actual = gradients(outputs, {c.hidden, c.head.weight}, from);
      const auto expected = gradients(expected_outputs, {h, w}, expected_from);

      // |dlogit| <= ((onehot + p) |dlogprob| + p (|log p| + H) |dentropy|) / T, each off by a
      // relative error from p and its logarithm, and by some roundings.
      at::NoGradGuard no_grad;
      const auto log_p = at::log_softmax(at::mm(h, w.t()) / temperature, 1), p = log_p.exp();
      auto magnitude = p * (log_p.abs() + wanted.detach().unsqueeze(1) + 1) *
                       dentropy.to(at::kDouble).abs().unsqueeze(1);
      if (has_logprobs)
        magnitude = magnitude + (at::one_hot(c.targets, shape.vocabulary) + p) *
                                    dlogprobs.to(at::kDouble).abs().unsqueeze(1);
      const double relative = 3 * logit_error(c) / temperature + 3 * u + 4 * kTail +
                              std::sqrt(shape.vocabulary + shape.rows) * unit_roundoff(at::kFloat);
      const auto bound = magnitude / temperature * relative;
      const auto within = [](const at::Tensor& found, const at::Tensor& wanted_gradient,
                             const at::Tensor& most) {
        return ((found.to(at::kDouble) - wanted_gradient).abs() <= most).all().item<bool>();
      };
      EXPECT_TRUE(within(actual[0], expected[0], at::mm(bound, w.abs())));
      EXPECT_TRUE(within(actual[1], expected[1], at::mm(bound.t(), h.abs())));
    }
  }
}

TEST(TokenLogprobs, WeightAloneMayWantAGradient) {
  Case c = make_case({4, 8, 50}, at::kFloat, testing::test_seed(9));
  c.head.weight.set_requires_grad(true);
  const auto out = token_logprobs(c.hidden, c.head, c.targets, 1, false);
  const auto dweight = gradients({out.logprobs}, {c.head.weight}, {at::ones({4})})[0];
  // Each row of dlogits sums to 0, so the gradient's columns do as well.
  EXPECT_CLOSE(dweight.sum(0), at::zeros({8}), 0, 1e-5);
}

TEST(TokenLogprobs, ANanInOneBlockReachesTheRow) {
  Case c = make_case({3, 8, 8300}, at::kFloat, testing::test_seed(10));
  c.head.weight.select(0, 8250).fill_(std::nan(""));
  c.head.pack();
  c.targets.fill_(1);
  const auto out = token_logprobs(c.hidden, c.head, c.targets, 1, true);
  EXPECT_TRUE(at::isfinite(out.logprobs).logical_not().all().item<bool>());
}

TEST(TokenLogprobs, ExtremeLogitsStayFinite) {
  const auto logits = at::full({2, 9000}, -3e38);
  logits.select(1, 8999).fill_(3e38);
  const auto targets = at::full({2}, 8999, at::TensorOptions().dtype(at::kLong));
  EXPECT_CLOSE(logprobs_of_logits(logits, targets, 1), at::zeros({2}), 0, 0);
}

TEST(TokenLogprobs, RefusesWrongArguments) {
  const Case c = make_case({3, 8, 20}, at::kFloat, testing::test_seed(11));
  const auto run = [&](const at::Tensor& hidden, const at::Tensor& targets, double temperature) {
    token_logprobs(hidden, c.head, targets, temperature, false);
  };
  EXPECT_ERROR(run(c.hidden, at::full_like(c.targets, 20), 1), ShapeError, "bad-target", "got 20");
  EXPECT_ERROR(run(c.hidden, at::full_like(c.targets, -1), 1), ShapeError, "bad-target", "got -1");
  EXPECT_ERROR(run(c.hidden, c.targets.narrow(0, 0, 2), 1), ShapeError, "bad-shape", "targets [3]");
  EXPECT_ERROR(run(c.hidden.to(at::kBFloat16), c.targets, 1), ShapeError, "bad-shape", "BFloat16");
  EXPECT_ERROR(run(c.hidden, c.targets, 0), ConfigError, "bad-temperature", "got 0");
}

}  // namespace
}  // namespace lockstep::ops
