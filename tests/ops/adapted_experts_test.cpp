// Experts with adapters: values and gradients against their formulas in float64, dropout with fixed
// masks, and rows whose bits do not depend on the adapters of others.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "ops/moe.h"
#include "ops/reference/moe.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tests/ops/finite_difference.h"
#include "tests/ops/low_rank_formulas.h"
#include "tests/ops/targets.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"

namespace lockstep::ops {
namespace {

using testing::same_bits;

constexpr int64_t kTokens = 12, kDim = 20, kExperts = 5, kChosen = 2, kWidth = 11;

at::Tensor uniform(at::IntArrayRef shape, at::ScalarType dtype = at::kFloat) {
  return at::empty(shape, at::kFloat).uniform_(-1, 1).to(dtype);
}

at::Tensor ids(const std::vector<int64_t>& values) {
  at::Tensor made = at::empty({std::ssize(values)}, at::TensorOptions().dtype(at::kLong));
  std::copy(values.begin(), values.end(), made.mutable_data_ptr<int64_t>());
  return made;
}

ExpertLowRank pair_of(const at::Tensor& a, const at::Tensor& b) {
  ExpertLowRank pair{.a = ExpertBank(a), .b = ExpertBank(b), .scale = 0.75};
  pair.pack();
  return pair;
}

/// A layer's experts and some tokens.
struct Layer {
  at::Tensor x, gate_up, down;
  Routing routing;

  explicit Layer(at::ScalarType dtype, int64_t tokens = kTokens)
      : x(uniform({tokens, kDim}, dtype)),
        gate_up(uniform({kExperts, 2 * kWidth, kDim}, dtype)),
        down(uniform({kExperts, kDim, kWidth}, dtype)),
        routing(route(uniform({tokens, kExperts}, dtype), kChosen, true)) {}
  at::Tensor run(const std::vector<ExpertTerm>& terms) const {
    return experts(x, routing, ExpertBank::packed(gate_up), ExpertBank::packed(down), terms);
  }
  Layer tokens(int64_t first, int64_t count) const {
    Layer part = *this;
    part.x = x.narrow(0, first, count);
    part.routing = {routing.weights.narrow(0, first, count),
                    routing.experts.narrow(0, first, count)};
    return part;
  }
};

/// The factors of a product's inputs, [K, T, I]: of those tokens that have the adapter, and with
/// what a dropout leaves. `keys` may be empty.
at::Tensor factors_of(const Routing& routing,
                      int64_t width,
                      const at::Tensor& own,
                      double rate,
                      const std::vector<int64_t>& keys) {
  const int64_t tokens = routing.experts.size(0);
  std::vector<at::Tensor> all;
  for (int64_t k = 0; k < kChosen; ++k) {
    std::vector<uint64_t> mixed;
    for (int64_t t = 0; t < tokens && !keys.empty(); ++t) {
      const auto expert = static_cast<uint64_t>(routing.experts[t][k].item<int64_t>());
      mixed.push_back(testing::mixed_key(static_cast<uint64_t>(keys[static_cast<size_t>(t)]) +
                                         0xD1342543DE82EF95ULL * (expert + 1)));
    }
    at::Tensor factors = testing::factors(at::empty({tokens, width}), rate, mixed);
    if (own.defined())
      factors = at::zeros_like(factors).index_copy(0, own, factors.index_select(0, own));
    all.push_back(factors);
  }
  return at::stack(all);
}

double rounding(at::ScalarType dtype) { return dtype == at::kBFloat16 ? std::ldexp(1.0, -8) : 0; }

/// The inputs x, weights, gate_up, down, and A and B beside gate_up and down.
std::vector<at::Tensor> inputs_of(const Layer& layer, int64_t rank) {
  return {layer.x,
          layer.routing.weights,
          layer.gate_up,
          layer.down,
          uniform({kExperts, rank, kDim}),
          uniform({kExperts, 2 * kWidth, rank}),
          uniform({kExperts, rank, kWidth}),
          uniform({kExperts, kDim, rank})};
}

/// Which of the products has a pair.
struct Has {
  bool gate_up, down;
};

void expect_slopes(at::ScalarType dtype, Has has, const at::Tensor& own, double rate) {
  const Layer layer(dtype);
  std::vector<int64_t> keys(kTokens);
  std::iota(keys.begin(), keys.end(), 70);
  ExpertLowRank gate_up, down;
  const at::Tensor seen = factors_of(layer.routing, kDim, own, rate,
                                     rate > 0 ? keys : std::vector<int64_t>()),
                   seen_inner = factors_of(layer.routing, kWidth, own, rate,
                                           rate > 0 ? keys : std::vector<int64_t>());
  testing::expect_slopes(
      [&](const auto& in) {
        gate_up = pair_of(in[4], in[5]);
        down = pair_of(in[6], in[7]);
        const std::vector<ExpertTerm> terms{{has.gate_up ? &gate_up : nullptr,
                                             has.down ? &down : nullptr,
                                             own,
                                             {rate, rate > 0 ? ids(keys) : at::Tensor()}}};
        at::Tensor out = experts(in[0], {in[1], layer.routing.experts}, ExpertBank::packed(in[2]),
                                 ExpertBank::packed(in[3]), terms);
        // Those that have no part get a gradient of zero all the same.
        for (size_t i = 4; i < 8; ++i)
          if (!(i < 6 ? has.gate_up : has.down)) out = out.add(in[i].sum().mul(0).to(dtype));
        return out;
      },
      [&](const auto& in) {
        return reference::experts(
            in[0], {in[1], layer.routing.experts}, in[2], in[3],
            has.gate_up ? reference::ExpertPair{in[4], in[5], 0.75, seen} : reference::ExpertPair{},
            has.down ? reference::ExpertPair{in[6], in[7], 0.75, seen_inner}
                     : reference::ExpertPair{});
      },
      inputs_of(layer, 3), uniform({kTokens, kDim}, dtype), 1000 * 0x1p-24 + 8 * rounding(dtype));
}

TEST(AdaptedExperts, GradientsAreTheSlopesOfTheFormulas) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const Has has : {Has{true, true}, Has{true, false}, Has{false, true}})
      for (const at::Tensor& own : {at::Tensor(), ids({0, 3, 4, 11})})
        for (const double rate : {0.0, 0.3}) {
          SCOPED_TRACE(fmt::format("{} {} {} {} {}", at::toString(dtype), has.gate_up, has.down,
                                   own.defined(), rate));
          expect_slopes(dtype, has, own, rate);
        }
}

TEST(AdaptedExperts, AreTheFormulas) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t rank : {1, 4, 17}) {
      const Layer layer(dtype);
      const auto in = inputs_of(layer, rank);
      const ExpertLowRank gate_up = pair_of(in[4], in[5]), down = pair_of(in[6], in[7]);
      const auto wide = [&](size_t i) { return in[i].to(at::kDouble); };
      const at::Tensor own = ids({1, 2, 7});
      const at::Tensor expected = reference::experts(
          wide(0), {wide(1), layer.routing.experts}, wide(2), wide(3),
          {wide(4), wide(5), 0.75, factors_of(layer.routing, kDim, own, 0, {})},
          {wide(6), wide(7), 0.75, factors_of(layer.routing, kWidth, own, 0, {})});
      const double size = expected.abs().max().item<double>();
      EXPECT_CLOSE(layer.run({{&gate_up, &down, own, {}}}), expected, 0,
                   size * (200 * 0x1p-24 + 8 * rounding(dtype)));
    }
}

/// A token's bits are those that it has alone, whichever adapters the others have.
TEST(AdaptedExperts, TokensDoNotSeeTheAdaptersOfOthers) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const Layer layer(dtype, 60);
    const auto one = inputs_of(layer, 4), two = inputs_of(layer, 9);
    const ExpertLowRank gate_up = pair_of(one[4], one[5]), down = pair_of(one[6], one[7]),
                        other = pair_of(two[6], two[7]);
    std::vector<int64_t> first, second;
    for (int64_t t = 0; t < 60; ++t)
      if (t % 3) (t % 3 == 1 ? first : second).push_back(t);
    const at::Tensor all =
        layer.run({{&gate_up, &down, ids(first), {}}, {nullptr, &other, ids(second), {}}});
    for (int64_t t = 0; t < 60; ++t) {
      std::vector<ExpertTerm> terms;
      if (t % 3 == 1) terms.push_back({&gate_up, &down, {}, {}});
      if (t % 3 == 2) terms.push_back({nullptr, &other, {}, {}});
      EXPECT_TRUE(same_bits(layer.tokens(t, 1).run(terms), all.narrow(0, t, 1))) << t;
    }
    EXPECT_TRUE(same_bits(layer.run({{&gate_up, &down, {}, {}}}).index_select(0, ids(first)),
                          all.index_select(0, ids(first))));
    EXPECT_FALSE(same_bits(all, layer.run({})));
  }
}

/// The mean over many masks of what is added to the second product, which is linear in it.
TEST(AdaptedExperts, DropoutsMeanIsWithoutIt) {
  constexpr int64_t kMasks = 4000;
  const Layer one(at::kFloat, 1);
  Layer many = one;
  many.x = one.x.expand({kMasks, kDim}).contiguous();
  many.routing = {one.routing.weights.expand({kMasks, kChosen}).contiguous(),
                  one.routing.experts.expand({kMasks, kChosen}).contiguous()};
  const auto in = inputs_of(one, 3);
  const ExpertLowRank down = pair_of(in[6], in[7]);
  std::vector<int64_t> keys(kMasks);
  std::iota(keys.begin(), keys.end(), 0);
  const at::Tensor rows = many.run({{nullptr, &down, {}, {0.25, ids(keys)}}}).to(at::kDouble);
  const at::Tensor expected = one.run({{nullptr, &down, {}, {}}}).to(at::kDouble)[0];
  const at::Tensor error = rows.mean(0).sub(expected).abs(), spread = rows.std(0);
  EXPECT_TRUE(error.lt(spread.mul(5 / std::sqrt(static_cast<double>(kMasks)))).all().item<bool>());
  EXPECT_GT(spread.min().item<double>(), 0.01);
}

TEST(AdaptedExperts, ExpertsWithoutATokenGetZeroGradients) {
  Layer layer(at::kFloat);
  layer.routing.experts.fill_(1);
  layer.routing.experts.select(1, 1).fill_(3);
  const auto in = inputs_of(layer, 2);
  for (size_t i = 4; i < 8; ++i) in[i].set_requires_grad(true);
  const ExpertLowRank gate_up = pair_of(in[4], in[5]), down = pair_of(in[6], in[7]);
  const auto found = gradients({layer.run({{&gate_up, &down, ids({0, 5}), {}}})},
                               {in[4], in[5], in[6], in[7]}, {at::ones_like(layer.x)});
  for (const at::Tensor& gradient : found)
    for (const int64_t expert : {0, 1, 2, 3, 4})
      EXPECT_EQ(gradient.select(0, expert).abs().max().item<double>() > 0,
                expert == 1 || expert == 3);
}

TEST(AdaptedExperts, RefusesShapesThatDoNotFit) {
  const Layer layer(at::kFloat);
  const auto in = inputs_of(layer, 2);
  const ExpertLowRank gate_up = pair_of(in[4], in[5]);
  EXPECT_ERROR(layer.run({{nullptr, &gate_up, {}, {}}}), ShapeError, "bad-shape",
               "beside [5, 20, 11], got [5, 2, 20] and [5, 22, 2]");
  EXPECT_ERROR(layer.run({{&gate_up, nullptr, {}, {}}, {&gate_up, nullptr, ids({1}), {}}}),
               ShapeError, "terms-meet", "of the same rows");
  EXPECT_ERROR(layer.run({{&gate_up, nullptr, {}, {0.1, ids({1})}}}), ShapeError, "bad-dropout",
               "got 0.1 and 1 keys");
}

}  // namespace
}  // namespace lockstep::ops
