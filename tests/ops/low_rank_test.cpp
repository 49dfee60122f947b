// adapted_linear: values, gradients, dropout, and rows whose bits do not depend on the others.
// SPDX-License-Identifier: Apache-2.0
#include "ops/low_rank.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "base/check.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tests/ops/finite_difference.h"
#include "tests/ops/low_rank_formulas.h"
#include "tests/ops/targets.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"

namespace lockstep::ops {
namespace {

using testing::factors;
using testing::same_bits;
using testing::with_low_rank;

at::Tensor uniform(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::empty(shape, at::kFloat).uniform_(-1, 1).to(dtype);
}

LowRank pair_of(const at::Tensor& a, const at::Tensor& b, int64_t first_row) {
  LowRank pair{.scale = 0.75, .first_row = first_row};
  pair.a = LinearWeight(a);
  pair.b = LinearWeight(b);
  pair.pack();
  return pair;
}

at::Tensor ids(std::initializer_list<int64_t> values) {
  at::Tensor made = at::empty({std::ssize(values)}, at::TensorOptions().dtype(at::kLong));
  std::copy(values.begin(), values.end(), made.mutable_data_ptr<int64_t>());
  return made;
}

double rounding(at::ScalarType dtype) { return dtype == at::kBFloat16 ? std::ldexp(1.0, -8) : 0; }

/// A weight [O, I] of these values, packed.
LinearWeight weight_of(const at::Tensor& values) {
  LinearWeight weight(values);
  weight.pack();
  return weight;
}

at::Tensor adapted(const at::Tensor& x,
                   const LinearWeight& weight,
                   const std::vector<LowRankTerm>& terms) {
  return adapted_linear(x, weight, terms);
}

std::vector<uint64_t> mixed(const std::vector<int64_t>& keys) {
  std::vector<uint64_t> all;
  for (const int64_t key : keys) all.push_back(testing::mixed_key(static_cast<uint64_t>(key)));
  return all;
}

at::Tensor keys_of(const std::vector<int64_t>& values) {
  at::Tensor made = at::empty({std::ssize(values)}, at::TensorOptions().dtype(at::kLong));
  std::copy(values.begin(), values.end(), made.mutable_data_ptr<int64_t>());
  return made;
}

TEST(LowRank, IsTheSum) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t rank : {1, 5, 8, 33, 300})
      for (const at::Tensor& rows : {at::Tensor(), ids({0, 3, 6}), ids({6})}) {
        const at::Tensor x = uniform({7, 40}, dtype);
        const LinearWeight weight = weight_of(uniform({50, 40}, dtype));
        const at::Tensor a = uniform({rank, 40}, at::kFloat), b = uniform({20, rank}, at::kFloat);
        const LowRank pair = pair_of(a, b, 25);
        const LowRankTerm term{&pair, rows, {}};
        const at::Tensor before = linear(x, weight), got = adapted(x, weight, {term});
        const at::Tensor expected =
            with_low_rank(before.to(at::kDouble), x.to(at::kDouble), a.to(at::kDouble),
                          b.to(at::kDouble), 0.75, 25, rows);
        EXPECT_CLOSE(got, expected, rounding(dtype), 40.0 * 40 * rank * 0x1p-24);
        // Columns of other modules keep their bits.
        EXPECT_TRUE(same_bits(got.narrow(1, 0, 25), before.narrow(1, 0, 25)));
        EXPECT_TRUE(same_bits(got.narrow(1, 45, 5), before.narrow(1, 45, 5)));
      }
}

TEST(LowRank, SeveralTermsAddUp) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = uniform({9, 24}, dtype);
    const LinearWeight weight = weight_of(uniform({40, 24}, dtype));
    const LowRank q = pair_of(uniform({4, 24}, at::kFloat), uniform({16, 4}, at::kFloat), 0),
                  k = pair_of(uniform({2, 24}, at::kFloat), uniform({24, 2}, at::kFloat), 16),
                  other = pair_of(uniform({7, 24}, at::kFloat), uniform({16, 7}, at::kFloat), 0);
    const at::Tensor some = ids({0, 1, 4, 8}), rest = ids({2, 3, 7});
    const std::vector<LowRankTerm> terms{{&q, some, {}}, {&k, some, {}}, {&other, rest, {}}};
    at::Tensor expected = linear(x, weight).to(at::kDouble);
    for (const LowRankTerm& term : terms)
      expected =
          with_low_rank(expected, x.to(at::kDouble), term.pair->a.weight.to(at::kDouble),
                        term.pair->b.weight.to(at::kDouble), 0.75, term.pair->first_row, term.rows);
    EXPECT_CLOSE(adapted(x, weight, terms), expected, rounding(dtype), 24 * 24 * 7 * 0x1p-24);
  }
}

/// Two terms whose columns, 3 to 24 and 24 to 30, are apart; the inputs are x, W, A, B, A', B'.
void expect_term_slopes(at::ScalarType dtype, const at::Tensor& rows, double rate) {
  const std::vector<int64_t> keys{5, -7, 1LL << 40, 0, 99, 3};
  const Dropout dropout{rate, rate > 0 ? keys_of(keys) : at::Tensor()};
  // The graph refers to the pairs.
  LowRank first, second;
  const at::Tensor drop = factors(at::empty({6, 17}), rate, mixed(keys));
  testing::expect_slopes(
      [&](const auto& in) {
        first = pair_of(in[2], in[3], 3);
        second = pair_of(in[4], in[5], 24);
        return adapted(in[0], weight_of(in[1]),
                       {{&first, rows, dropout}, {&second, at::Tensor(), dropout}});
      },
      [&](const auto& in) {
        const at::Tensor seen = in[0] * drop;
        return with_low_rank(
            with_low_rank(at::mm(in[0], in[1].t()), seen, in[2], in[3], 0.75, 3, rows), seen, in[4],
            in[5], 0.75, 24, {});
      },
      {uniform({6, 17}, dtype), uniform({30, 17}, dtype), uniform({4, 17}, at::kFloat),
       uniform({21, 4}, at::kFloat), uniform({2, 17}, at::kFloat), uniform({6, 2}, at::kFloat)},
      uniform({6, 30}, dtype), 200 * 0x1p-24 + 3 * rounding(dtype));
}

TEST(LowRank, GradientsAreTheSlopesOfTheSum) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const at::Tensor& rows : {at::Tensor(), ids({1, 2, 4})})
      for (const double rate : {0.0, 0.3}) expect_term_slopes(dtype, rows, rate);
}

TEST(LowRank, RowsDoNotDependOnTheOthers) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = uniform({90, 64}, dtype);
    const LinearWeight weight = weight_of(uniform({70, 64}, dtype));
    const LowRank pair = pair_of(uniform({8, 64}, at::kFloat), uniform({37, 8}, at::kFloat), 20);
    const at::Tensor all = adapted(x, weight, {{&pair, {}, {}}});
    for (const int64_t rows : {1, 2, 3, 16, 17, 64})
      for (const int64_t first : {0, 5, 26})
        EXPECT_TRUE(same_bits(adapted(x.narrow(0, first, rows), weight, {{&pair, {}, {}}}),
                              all.narrow(0, first, rows)))
            << at::toString(dtype) << ", " << rows << " rows from " << first;
    const at::Tensor some = ids({0, 7, 33, 89}), other = adapted(x, weight, {{&pair, some, {}}});
    EXPECT_TRUE(same_bits(other.index_select(0, some), all.index_select(0, some)));
    EXPECT_TRUE(same_bits(other.narrow(0, 34, 55), linear(x, weight).narrow(0, 34, 55)));
  }
}

/// What is dropped is a function of the row's key: not of the row's place, nor of the others.
TEST(LowRank, EqualKeysDropTheSame) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = uniform({1, 501}, dtype).expand({4, 501}).contiguous();
    const LinearWeight weight = weight_of(uniform({20, 501}, dtype));
    LowRank pair = pair_of(uniform({3, 501}, at::kFloat), uniform({20, 3}, at::kFloat), 0);
    const auto run = [&](const std::vector<int64_t>& keys) {
      return adapted(x.narrow(0, 0, std::ssize(keys)), weight, {{&pair, {}, {0.4, keys_of(keys)}}});
    };
    const at::Tensor all = run({11, 12, 11, 13});
    EXPECT_TRUE(same_bits(all.narrow(0, 0, 1), all.narrow(0, 2, 1)));
    EXPECT_FALSE(same_bits(all.narrow(0, 0, 1), all.narrow(0, 1, 1)));
    EXPECT_TRUE(same_bits(run({13}), all.narrow(0, 3, 1)));
    pair.name = 1;
    EXPECT_FALSE(same_bits(run({13}), all.narrow(0, 3, 1)));
  }
}

/// The mean over many masks is what no dropout gives.
TEST(LowRank, DropoutsMeanIsWithoutIt) {
  constexpr int64_t kMasks = 4000;
  const double rate = 0.25;
  const at::Tensor x = uniform({1, 40}, at::kFloat);
  const LinearWeight weight = weight_of(at::zeros({6, 40}));
  const LowRank pair = pair_of(uniform({3, 40}, at::kFloat), uniform({6, 3}, at::kFloat), 0);
  std::vector<int64_t> keys(kMasks);
  std::iota(keys.begin(), keys.end(), 1000);
  const at::Tensor rows =
      adapted(x.expand({kMasks, 40}).contiguous(), weight, {{&pair, {}, {rate, keys_of(keys)}}})
          .to(at::kDouble);
  const at::Tensor expected = adapted(x, weight, {{&pair, {}, {}}}).to(at::kDouble)[0];
  const at::Tensor error = rows.mean(0).sub(expected).abs();
  // Five standard errors of the mean.
  const at::Tensor spread = rows.std(0).mul(5 / std::sqrt(static_cast<double>(kMasks)));
  EXPECT_TRUE(error.lt(spread).all().item<bool>()) << error << spread;
  EXPECT_GT(rows.std(0).min().item<double>(), 0.01);
}

/// Sums that are made at once would lose a part where they meet.
TEST(LowRank, RefusesTermsThatMeet) {
  const LinearWeight weight = weight_of(at::zeros({6, 3}));
  const at::Tensor x = at::zeros({5, 3}), some = ids({0, 2});
  const LowRank low = pair_of(at::zeros({2, 3}), at::zeros({4, 2}), 0),
                high = pair_of(at::zeros({2, 3}), at::zeros({3, 2}), 3),
                apart = pair_of(at::zeros({2, 3}), at::zeros({2, 2}), 4);
  const auto refused = [&](const at::Tensor& one, const at::Tensor& other) {
    EXPECT_ERROR(adapted(x, weight, {{&low, one, {}}, {&high, other, {}}}), ShapeError,
                 "terms-meet", "columns [0, 4) and [3, 6) of the same rows");
  };
  refused({}, {});
  refused(some, {});
  refused({}, some);
  refused(some, some);
  adapted(x, weight, {{&low, some, {}}, {&high, ids({1, 4}), {}}});
  adapted(x, weight, {{&low, {}, {}}, {&apart, {}, {}}});
}

TEST(LowRank, RefusesShapesThatDoNotFit) {
  const LinearWeight weight = weight_of(at::zeros({6, 3}));
  const auto run = [&](const at::Tensor& x, int64_t first_row, const Dropout& dropout) {
    const LowRank pair = pair_of(at::zeros({2, 3}), at::zeros({4, 2}), first_row);
    return adapted(x, weight, {{&pair, {}, dropout}});
  };
  const at::Tensor x = at::zeros({5, 3});
  run(x, 2, {});
  EXPECT_ERROR(run(x, 3, {}), ShapeError, "bad-shape", "3 + O <= O'");
  EXPECT_ERROR(run(at::zeros({5, 4}), 0, {}), ShapeError, "bad-shape", "[5, 4]");
  EXPECT_ERROR(run(x, 0, {0.5, keys_of({1, 2})}), ShapeError, "bad-dropout", "got 0.5 and 2 keys");
}

}  // namespace
}  // namespace lockstep::ops
