// Routing and experts against their formulas in float64, and a token's bits against the company it
// keeps.
// SPDX-License-Identifier: Apache-2.0
#include "ops/moe.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/argsort.h>

#include "ops/cpu/moe.h"
#include "ops/kernel_data.h"
#include "ops/reference/moe.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tests/ops/finite_difference.h"
#include "tests/ops/targets.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"

namespace lockstep::ops {
namespace {

using testing::same_bits;

double unit_roundoff(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? std::pow(2.0, -8) : std::pow(2.0, -24);
}

class Normal {
 public:
  explicit Normal(uint64_t seed) : generator_(at::detail::createCPUGenerator(seed)) {}
  at::Tensor operator()(at::IntArrayRef shape) {
    return at::randn(shape, generator_, at::TensorOptions().dtype(at::kDouble));
  }

 private:
  at::Generator generator_;
};

struct Shape {
  int64_t tokens, model_dim, num_experts, num_chosen, width;
};

struct Case {
  at::Tensor x;
  Routing routing;
  at::Tensor gate_up, down;

  Case to(at::ScalarType dtype) const {
    const auto leaf = [&](const at::Tensor& t) {
      return t.detach().to(dtype).clone().set_requires_grad(true);
    };
    return {leaf(x), {leaf(routing.weights), routing.experts}, leaf(gate_up), leaf(down)};
  }
  Case tokens(int64_t first, int64_t count) const {
    return {x.narrow(0, first, count),
            {routing.weights.narrow(0, first, count), routing.experts.narrow(0, first, count)},
            gate_up,
            down};
  }
  at::Tensor run() const {
    return experts(x, routing, ExpertBank::packed(gate_up), ExpertBank::packed(down));
  }
  std::vector<at::Tensor> inputs() const { return {x, routing.weights, gate_up, down}; }
};

Case make_case(const Shape& s, at::ScalarType dtype, uint64_t seed) {
  Normal normal(seed);
  Case c;
  c.x = normal({s.tokens, s.model_dim}).to(dtype);
  c.gate_up =
      (normal({s.num_experts, 2 * s.width, s.model_dim}) / std::sqrt(s.model_dim)).to(dtype);
  c.down = (normal({s.num_experts, s.model_dim, s.width}) / std::sqrt(s.width)).to(dtype);
  c.routing = route(normal({s.tokens, s.num_experts}).to(dtype), s.num_chosen, true);
  return c;
}

std::string text(const Shape& s) {
  return fmt::format("T {} D {} E {} K {} F {}", s.tokens, s.model_dim, s.num_experts, s.num_chosen,
                     s.width);
}

const std::vector<Shape> kShapes = {{0, 16, 4, 2, 8},    {1, 16, 4, 1, 8},     {2, 16, 4, 4, 8},
                                    {63, 32, 8, 2, 24},  {64, 48, 128, 8, 16}, {65, 17, 5, 3, 7},
                                    {200, 64, 2, 1, 32}, {33, 16, 1, 1, 16}};

class Moe : public ::testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(, Moe, ::testing::Values(at::kFloat, at::kBFloat16), [](const auto& type) {
  return std::string(at::toString(type.param));
});

TEST_P(Moe, RouteEqualsReferenceWithinRounding) {
  Normal normal(testing::test_seed(1));
  const double u = unit_roundoff(GetParam());
  for (const auto& [tokens, num_experts] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 4}, {1, 1}, {2, 5}, {63, 16}, {64, 17}, {65, 128}, {20, 256}}) {
    for (const int64_t num_chosen : {int64_t{1}, std::min<int64_t>(8, num_experts), num_experts}) {
      for (const bool renormalize : {false, true}) {
        const auto logits =
            (normal({tokens, num_experts}) * 2).to(GetParam()).set_requires_grad(true);
        const auto exact = logits.detach().to(at::kDouble).set_requires_grad(true);
        const auto actual = route(logits, num_chosen, renormalize);
        const auto expected = reference::route(exact, num_chosen, renormalize);
        EXPECT_TRUE(same_bits(actual.experts, expected.experts));
        ASSERT_EQ(actual.weights.scalar_type(), GetParam());
        // Weights are at most 1: exp, two sums and two products in float32, then the dtype.
        EXPECT_CLOSE(actual.weights, expected.weights, 0, u + std::pow(2.0, -21));
        const auto dweights = normal({tokens, num_chosen}).to(GetParam());
        const auto dlogits = gradients({actual.weights}, {logits}, {dweights})[0];
        const auto dexact = gradients({expected.weights}, {exact}, {dweights.to(at::kDouble)})[0];
        const double largest = tokens ? dweights.abs().max().item<double>() : 0;
        EXPECT_CLOSE(dlogits, dexact, u, 8 * largest * std::pow(2.0, -24));
      }
    }
  }
}

/// [T, K] int32: different ids in random order, but none for every fifth token.
at::Tensor draw_given(int64_t tokens, int64_t num_experts, int64_t num_chosen, Normal& normal) {
  const at::Tensor given = at::argsort(normal({tokens, num_experts}), /*dim=*/int64_t{1})
                               .narrow(1, 0, num_chosen)
                               .to(at::kInt)
                               .contiguous();
  for (int64_t t = 0; t < tokens; t += 5) given.select(0, t).fill_(-1);
  return given;
}

/// Also with more experts than a byte can name.
TEST_P(Moe, GivenExpertsHaveTheWeightsAndGradientsOfTheReference) {
  Normal normal(testing::test_seed(7));
  const double u = unit_roundoff(GetParam());
  for (const auto& [tokens, num_experts, num_chosen] :
       std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {0, 4, 2}, {1, 5, 5}, {7, 5, 1}, {65, 64, 8}, {130, 300, 8}, {40, 512, 10}}) {
    for (const bool renormalize : {false, true})
      for (const bool with_weights : {false, true}) {
        SCOPED_TRACE(fmt::format("{} {} {} {} {}", tokens, num_experts, num_chosen, renormalize,
                                 with_weights));
        GivenExperts given{draw_given(tokens, num_experts, num_chosen, normal), {}};
        if (with_weights)
          given.weights = normal({tokens, num_chosen}).abs().to(GetParam()).to(at::kFloat);
        const auto logits =
            (normal({tokens, num_experts}) * 2).to(GetParam()).set_requires_grad(true);
        const auto exact = logits.detach().to(at::kDouble).set_requires_grad(true);
        const auto actual = route(logits, num_chosen, renormalize, nullptr, &given);
        const auto expected = reference::route(exact, num_chosen, renormalize, given);
        EXPECT_TRUE(same_bits(actual.experts, expected.experts));
        EXPECT_TRUE(same_bits(actual.changed, expected.changed.to(at::kByte)));
        // An improbable expert's weight is 1 at most, by the quotient of two sums.
        EXPECT_CLOSE(actual.weights, expected.weights, u, std::pow(2.0, -20));
        const auto dweights = normal({tokens, num_chosen}).to(GetParam());
        const auto dlogits = gradients({actual.weights}, {logits}, {dweights})[0];
        const auto dexact = gradients({expected.weights}, {exact}, {dweights.to(at::kDouble)})[0];
        const double largest = tokens ? dweights.abs().max().item<double>() : 0;
        EXPECT_CLOSE(dlogits, dexact, u, 16 * largest * std::pow(2.0, -24));
        if (num_experts < 300) continue;
        EXPECT_GT(given.experts.max().item<int32_t>(), 255);
      }
  }
}

/// What a router chose, replayed, changes no bit, and nothing is counted as changed; the first row
/// that is given other experts is.
TEST_P(Moe, ReplayingOwnChoicesChangesNoBit) {
  Normal normal(testing::test_seed(8));
  const auto logits = normal({90, 300}).to(GetParam()).set_requires_grad(true);
  const auto own = route(logits, 8, true);
  GivenExperts given{own.experts.to(at::kInt), {}};
  const auto again = route(logits, 8, true, nullptr, &given);
  EXPECT_TRUE(same_bits(again.experts, own.experts));
  EXPECT_TRUE(same_bits(again.weights.detach(), own.weights.detach()));
  const auto dweights = normal({90, 8}).to(GetParam());
  EXPECT_TRUE(same_bits(gradients({again.weights}, {logits}, {dweights})[0],
                        gradients({own.weights}, {logits}, {dweights})[0]));
  EXPECT_EQ(again.changed.sum().item<int64_t>(), 0);
  // Another order is no other choice; another expert is.
  given.experts.copy_(given.experts.flip(1));
  int32_t* const last = given.experts.mutable_data_ptr<int32_t>() + 89 * 8;
  int32_t unused = 0;
  while (std::find(last, last + 8, unused) != last + 8) ++unused;
  *last = unused;
  const auto other = route(logits, 8, true, nullptr, &given);
  EXPECT_EQ(other.changed.sum().item<int64_t>(), 1);
  EXPECT_EQ(other.changed.select(0, 89).item<int64_t>(), 1);
}

TEST_P(Moe, GivenWeightsLetNothingThroughToTheLogits) {
  Normal normal(testing::test_seed(9));
  const auto logits = normal({20, 16}).to(GetParam()).set_requires_grad(true);
  const GivenExperts given{draw_given(20, 16, 4, normal), at::full({20, 4}, 0.25, at::kFloat)};
  const auto routing = route(logits, 4, true, nullptr, &given);
  const auto dlogits = gradients({routing.weights}, {logits}, {normal({20, 4}).to(GetParam())})[0];
  for (int64_t t = 0; t < 20; ++t)
    EXPECT_EQ(dlogits.select(0, t).abs().max().item<double>() > 0, t % 5 == 0) << t;
}

TEST_P(Moe, GivenExpertsThatAreNoneAreRefused) {
  const auto logits = at::zeros({3, 8}, GetParam());
  const auto given = [&](std::vector<int32_t> ids) {
    GivenExperts made{at::full({3, 2}, -1, at::kInt), {}};
    std::copy(ids.begin(), ids.end(), made.experts.mutable_data_ptr<int32_t>() + 2);
    return made;
  };
  for (const auto& ids : {std::vector<int32_t>{1, 8}, {3, 3}, {2, -1}}) {
    const GivenExperts bad = given(ids);
    EXPECT_ERROR(route(logits, 2, true, nullptr, &bad), ShapeError, "bad-expert",
                 "different ids in [0, 8)");
  }
  const GivenExperts short_one{at::zeros({2, 2}, at::kInt), {}};
  EXPECT_ERROR(route(logits, 2, true, nullptr, &short_one), ShapeError, "bad-shape",
               "[3, 2] int32");
}

TEST_P(Moe, RouteGivesTiesToTheLowerId) {
  Normal normal(testing::test_seed(2));
  // Few different values: every row is full of ties.
  const auto logits = (normal({200, 32}) * 1.5).round().to(GetParam());
  for (const int64_t num_chosen : {1, 3, 8, 32})
    EXPECT_TRUE(same_bits(route(logits, num_chosen, true).experts,
                          reference::route(logits.to(at::kDouble), num_chosen, true).experts));
}

TEST_P(Moe, RouteRowsDoNotDependOnBatch) {
  Normal normal(testing::test_seed(3));
  const auto logits = normal({300, 60}).to(GetParam());
  const auto all = route(logits, 6, true);
  for (const int64_t row : {0, 63, 64, 299}) {
    const auto one = route(logits.narrow(0, row, 1), 6, true);
    EXPECT_TRUE(same_bits(one.weights, all.weights.narrow(0, row, 1)));
    EXPECT_TRUE(same_bits(one.experts, all.experts.narrow(0, row, 1)));
  }
}

/// In a whole vector of experts and in the rest.
TEST_P(Moe, ANanMakesTheWeightsNanAndKeepsValidIds) {
  for (const int64_t place : {0, 3, 31, 36}) {
    auto logits = at::zeros({1, 37}, GetParam());
    logits.select(1, place).fill_(std::numeric_limits<float>::quiet_NaN());
    const auto routing = route(logits, 4, true);
    EXPECT_FALSE(at::isfinite(routing.weights).any().item<bool>()) << place;
    EXPECT_TRUE((routing.experts >= 0).logical_and(routing.experts < 37).all().item<bool>());
  }
}

/// |error| of experts(), element by element: each product rounds once, and sums its terms in
/// float32.
at::Tensor error_bound(const Case& c, double u) {
  const double u32 = std::pow(2.0, -24);
  const auto x = c.x.to(at::kDouble).unsqueeze(2), w = c.routing.weights.to(at::kDouble);
  const auto width = c.down.size(2);
  at::Tensor bound = at::zeros({c.x.size(0), c.x.size(1)}, at::TensorOptions().dtype(at::kDouble));
  at::Tensor magnitude = bound.clone();
  for (int64_t k = 0; k < c.routing.experts.size(1); ++k) {
    const auto id = c.routing.experts.select(1, k);
    const auto gate_up = c.gate_up.to(at::kDouble).index_select(0, id);
    const auto down = c.down.to(at::kDouble).index_select(0, id);
    const auto h = at::bmm(gate_up, x).squeeze(2);
    const auto dh = h.abs() * u + at::bmm(gate_up.abs(), x.abs()).squeeze(2) *
                                      (u32 * static_cast<double>(x.size(1)));
    const auto gate = h.narrow(1, 0, width), up = h.narrow(1, width, width);
    const auto silu = at::silu(gate).abs();
    // |silu'| <= 1.1; silu and the product round.
    const auto da = 1.1 * dh.narrow(1, 0, width) * up.abs() + silu * dh.narrow(1, width, width) +
                    silu * up.abs() * (2 * u + 8 * u32);
    const auto a = (at::silu(gate) * up).unsqueeze(2);
    const auto y_size = at::bmm(down.abs(), a.abs()).squeeze(2);
    const auto dy = at::bmm(down, a).squeeze(2).abs() * u +
                    y_size * (u32 * static_cast<double>(width)) +
                    at::bmm(down.abs(), da.unsqueeze(2)).squeeze(2);
    bound += w.select(1, k).unsqueeze(1) * dy;
    magnitude += w.select(1, k).unsqueeze(1) * at::bmm(down, a).squeeze(2).abs();
  }
  // Second-order terms are far below this factor.
  return (bound + magnitude * (u + 8 * u32)) * 1.05;
}

TEST_P(Moe, ExpertsEqualReferenceWithinRounding) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(text(shape));
    const Case c = make_case(shape, GetParam(), testing::test_seed(4));
    const auto actual = c.run();
    const Case exact = c.to(at::kDouble);
    at::NoGradGuard no_grad;
    const auto expected = reference::experts(exact.x, exact.routing, exact.gate_up, exact.down);
    ASSERT_EQ(actual.scalar_type(), GetParam());
    const auto error = (actual.to(at::kDouble) - expected).abs();
    EXPECT_TRUE((error <= error_bound(c, unit_roundoff(GetParam()))).all().item<bool>());
  }
}

TEST_P(Moe, GradientsEqualReferenceWithinRounding) {
  Normal normal(testing::test_seed(5));
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(text(shape));
    const Case c = make_case(shape, GetParam(), testing::test_seed(6)).to(GetParam());
    const Case exact = c.to(at::kDouble);
    const auto dout = normal({shape.tokens, shape.model_dim}).to(GetParam());
    const auto actual = gradients({c.run()}, c.inputs(), {dout});
    const auto expected =
        gradients({reference::experts(exact.x, exact.routing, exact.gate_up, exact.down)},
                  exact.inputs(), {dout.to(at::kDouble)});
    // At most eight roundings lie on a path from an input to its gradient, and sums of D, F or T
    // terms in float32.
    const double terms =
        static_cast<double>(std::max({shape.model_dim, shape.width, shape.tokens}));
    const double relative = 8 * unit_roundoff(GetParam()) + 2 * terms * std::pow(2.0, -24);
    for (size_t i = 0; i < actual.size(); ++i) {
      ASSERT_EQ(actual[i].scalar_type(), GetParam());
      EXPECT_CLOSE(actual[i], expected[i], relative, 0) << " input " << i;
    }
  }
}

/// The gradients above pass through eight roundings. These kernels alone make one, in whole vectors
/// and in the rest.
TEST_P(Moe, RowsCombineWithOneRounding) {
  Normal normal(testing::test_seed(14));
  constexpr int64_t kRows[] = {4, 0, 2};
  for (const int64_t width : {1, 7, 16, 37, 101})
    for (const bool has_weights : {false, true}) {
      const auto table = normal({5, width}).to(GetParam()), weights = normal({3}).to(GetParam());
      const auto out = at::empty({width}, table.options());
      for_dtype(GetParam(), "test", [&](auto tag) {
        using T = decltype(tag);
        cpu::combine_rows({.table = const_elements<T>(table),
                           .rows = kRows,
                           .weights = has_weights ? const_elements<T>(weights) : nullptr,
                           .num_chosen = 3,
                           .width = width},
                          elements<T>(out));
      });
      at::Tensor sum = at::zeros({width}, at::kDouble), size = at::zeros({width}, at::kDouble);
      for (int64_t k = 0; k < 3; ++k) {
        auto term = table[kRows[k]].to(at::kDouble);
        if (has_weights) term = term * weights[k].to(at::kDouble);
        sum += term;
        size += term.abs();
      }
      // Three products and sums in float32, then the dtype.
      EXPECT_WITHIN(out, sum, size * 6 * std::pow(2.0, -24) + sum.abs() * unit_roundoff(GetParam()))
          << " width " << width;
    }
}

TEST_P(Moe, RowsAreScaledAndMultipliedInOnePass) {
  Normal normal(testing::test_seed(15));
  constexpr float kWeight = 0.7f;
  for (const int64_t width : {1, 7, 16, 37, 101}) {
    const auto a = normal({width}).to(GetParam()), b = normal({width}).to(GetParam());
    const auto scaled_a = a.clone(), scaled_b = b.clone();
    float product = 0;
    for_dtype(GetParam(), "test", [&](auto tag) {
      using T = decltype(tag);
      product = cpu::scale_and_dot(elements<T>(scaled_a), elements<T>(scaled_b), kWeight, width);
    });
    const auto terms = a.to(at::kDouble) * b.to(at::kDouble);
    EXPECT_NEAR(product, terms.sum().item<double>(),
                terms.abs().sum().item<double>() * static_cast<double>(width) * std::pow(2.0, -24));
    EXPECT_TRUE(same_bits(scaled_a, (a.to(at::kFloat) * kWeight).to(GetParam()))) << width;
    EXPECT_TRUE(same_bits(scaled_b, (b.to(at::kFloat) * kWeight).to(GetParam()))) << width;
  }
}

TEST_P(Moe, GradientsAreTheSlopesOfTheFormulas) {
  const Case c = make_case({20, 16, 4, 2, 19}, GetParam(), testing::test_seed(7));
  Normal normal(testing::test_seed(13));
  testing::expect_slopes(
      [&](const auto& in) {
        return experts(in[0], {in[1], c.routing.experts}, ExpertBank::packed(in[2]),
                       ExpertBank::packed(in[3]));
      },
      [&](const auto& in) {
        return reference::experts(in[0], {in[1], c.routing.experts}, in[2], in[3]);
      },
      c.inputs(), normal({20, 16}).to(GetParam()),
      // As in GradientsEqualReferenceWithinRounding.
      8 * unit_roundoff(GetParam()) + 2 * 20 * std::pow(2.0, -24));
  // All different, so that no step moves one past another.
  const auto logits =
      ((at::arange(19) * 7 + at::arange(6).unsqueeze(1) * 3).remainder(19) * 0.3 - 2.7)
          .to(GetParam());
  for (const bool renormalize : {false, true})
    testing::expect_slopes(
        [&](const auto& in) { return route(in[0], 5, renormalize).weights; },
        [&](const auto& in) { return reference::route(in[0], 5, renormalize).weights; }, {logits},
        normal({6, 5}).to(GetParam()), unit_roundoff(GetParam()) + 16 * std::pow(2.0, -24));
}

TEST_P(Moe, ExpertsPackedEqualsAlone) {
  // From no token an expert to hundreds.
  for (const Shape& shape : testing::some_of<Shape>({{80, 64, 16, 4, 32},
                                                     {300, 256, 5, 2, 96},
                                                     {1100, 64, 2, 1, 48},
                                                     {40, 2048, 3, 2, 512},
                                                     {50, 40, 7, 3, 20},
                                                     {30, 72, 64, 8, 1024},
                                                     {200, 72, 2, 1, 1024}})) {
    SCOPED_TRACE(text(shape));
    const Case c = make_case(shape, GetParam(), testing::test_seed(8));
    const auto all = c.run();
    for (int64_t first = 0; first < shape.tokens; first += 1 + shape.tokens / 13)
      EXPECT_TRUE(same_bits(c.tokens(first, 1).run(), all.narrow(0, first, 1))) << first;
    for (int64_t count = 2; count < shape.tokens; count += 1 + count / 3)
      EXPECT_TRUE(same_bits(c.tokens(shape.tokens - count, count).run(),
                            all.narrow(0, shape.tokens - count, count)))
          << count;
  }
}

TEST_P(Moe, ThreadCountDoesNotMatter) {
  const int before = at::get_num_threads();
  for (const Shape& shape :
       testing::some_of<Shape>({{90, 256, 8, 4, 96}, {7, 2048, 4, 2, 512}, {700, 64, 3, 2, 40}})) {
    SCOPED_TRACE(text(shape));
    const Case c = make_case(shape, GetParam(), testing::test_seed(9));
    at::set_num_threads(1);
    const auto one = c.run();
    at::set_num_threads(2);
    const auto two = c.run();
    EXPECT_TRUE(same_bits(one, two));
  }
  at::set_num_threads(before);
}

TEST_P(Moe, ExpertsWithoutATokenGetZeroGradients) {
  Case c = make_case({10, 16, 6, 2, 8}, GetParam(), testing::test_seed(10)).to(GetParam());
  c.routing.experts = at::zeros_like(c.routing.experts);
  c.routing.experts.select(1, 1).fill_(4);
  const auto found = gradients({c.run()}, {c.gate_up, c.down}, {at::ones_like(c.x)});
  for (const auto& gradient : found)
    for (const int64_t expert : {0, 1, 2, 3, 4, 5})
      EXPECT_EQ(gradient.select(0, expert).abs().max().item<double>() > 0,
                expert == 0 || expert == 4);
}

TEST(Experts, GradientsReachOnlyWhatWantsThem) {
  Case c = make_case({10, 16, 6, 2, 8}, at::kFloat, testing::test_seed(11));
  EXPECT_FALSE(c.run().requires_grad());
  c.x.set_requires_grad(true);
  const auto dx = gradients({c.run()}, {c.x}, {at::ones_like(c.x)})[0];
  const Case all = c.to(at::kFloat);
  EXPECT_TRUE(same_bits(dx, gradients({all.run()}, {all.x}, {at::ones_like(c.x)})[0]));
}

TEST(Experts, RefusesWrongArguments) {
  Case c = make_case({3, 16, 4, 2, 8}, at::kFloat, testing::test_seed(12));
  EXPECT_ERROR(route(c.x, 17, true), ShapeError, "bad-shape", "E >= 17");
  EXPECT_ERROR(experts(c.x, c.routing, ExpertBank(c.down), ExpertBank(c.down)), ShapeError,
               "bad-shape", "gate_up [E, 2F, D]");
  EXPECT_ERROR(experts(c.x.to(at::kBFloat16), c.routing, ExpertBank(c.gate_up), ExpertBank(c.down)),
               ShapeError, "bad-dtype", "BFloat16");
  c.routing.experts.fill_(4);
  EXPECT_ERROR(c.run(), ShapeError, "bad-expert", "got 4");
}

}  // namespace
}  // namespace lockstep::ops
