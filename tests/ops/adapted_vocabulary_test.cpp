// Adapters of embedding and head: values, gradients, and rows whose bits do not depend on the
// others.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/ops/embedding.h>
#include <ATen/ops/linspace.h>

#include "base/check.h"
#include "ops/adapted_embedding.h"
#include "ops/reference/token_logprob.h"
#include "ops/token_logprob.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tensor/index_tensor.h"
#include "tests/ops/finite_difference.h"
#include "tests/ops/low_rank_formulas.h"
#include "tests/ops/targets.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"

namespace lockstep::ops {
namespace {

using testing::factors;
using testing::mixed_key;
using testing::same_bits;
using testing::with_low_rank;

constexpr double kScale = 0.75;

at::Tensor uniform(at::IntArrayRef shape, at::ScalarType dtype = at::kFloat) {
  return at::empty(shape, at::kFloat).uniform_(-1, 1).to(dtype);
}
at::Tensor ids(std::vector<int64_t> values) { return index_tensor(values); }
at::Tensor random_ids(int64_t count, int64_t vocabulary) {
  return at::empty({count}, at::kFloat)
      .uniform_(0, static_cast<double>(vocabulary) - 0.01)
      .to(at::kLong);
}
double roundoff(at::ScalarType dtype) { return dtype == at::kBFloat16 ? 0x1p-8 : 0x1p-24; }

EmbeddingLowRank embedding_pair(const at::Tensor& a, const at::Tensor& b) {
  EmbeddingLowRank pair{.a = a, .b = LinearWeight(b), .scale = kScale};
  pair.pack();
  return pair;
}
HeadLowRank head_pair(const at::Tensor& a, const at::Tensor& b) {
  HeadLowRank pair{.a = LinearWeight(a), .b = VocabularyHead(b), .scale = kScale};
  pair.pack();
  return pair;
}
VocabularyHead packed_head(const at::Tensor& weight) {
  VocabularyHead head(weight);
  head.pack();
  return head;
}

at::Tensor identity(int64_t size) {
  const at::Tensor made = at::zeros({size, size}, at::kDouble);
  for (int64_t i = 0; i < size; ++i) made.select(0, i).select(0, i).fill_(1);
  return made;
}

/// table[id] + scale B A[:, id] for the tokens in `rows`.
at::Tensor embedding_formula(const at::Tensor& tokens,
                             const at::Tensor& table,
                             const at::Tensor& a,
                             const at::Tensor& b,
                             const at::Tensor& rows) {
  return with_low_rank(at::embedding(table, tokens), at::embedding(a.t(), tokens),
                       identity(a.size(0)), b, kScale, 0, rows);
}

TEST(AdaptedEmbedding, IsTheSum) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t rank : {1, 8, 33})
      for (const at::Tensor& rows : {at::Tensor(), ids({0, 3, 6}), ids({6})}) {
        const at::Tensor table = uniform({30, 20}, dtype), a = uniform({rank, 30}),
                         b = uniform({20, rank}), tokens = ids({4, 29, 4, 0, 7, 4, 11});
        const EmbeddingLowRank pair = embedding_pair(a, b);
        const at::Tensor got = adapted_embedding(tokens, at::embedding(table, tokens),
                                                 std::vector<EmbeddingTerm>{{&pair, rows}});
        EXPECT_CLOSE(got,
                     embedding_formula(tokens, table.to(at::kDouble), a.to(at::kDouble),
                                       b.to(at::kDouble), rows),
                     dtype == at::kBFloat16 ? 0x1p-8 : 0,
                     4.0 * static_cast<double>(rank) * 0x1p-24);
        EXPECT_TRUE(same_bits(adapted_embedding(tokens, at::embedding(table, tokens), {}),
                              at::embedding(table, tokens)));
      }
}

TEST(AdaptedEmbedding, GradientsAreTheSlopesOfTheSum) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const at::Tensor& rows : {at::Tensor(), ids({1, 2, 4})}) {
      const at::Tensor table = uniform({9, 12}, dtype), tokens = ids({4, 8, 4, 0, 4, 4, 1});
      // The graph refers to the pair.
      EmbeddingLowRank pair;
      testing::expect_slopes(
          [&](const auto& in) {
            pair = embedding_pair(in[0], in[1]);
            return adapted_embedding(tokens, at::embedding(table, tokens),
                                     std::vector<EmbeddingTerm>{{&pair, rows}});
          },
          [&](const auto& in) {
            return embedding_formula(tokens, table.to(at::kDouble), in[0], in[1], rows);
          },
          {uniform({3, 9}), uniform({12, 3})}, uniform({7, 12}, dtype),
          50 * 0x1p-24 + (dtype == at::kBFloat16 ? 0x1p-8 : 0));
    }
}

TEST(AdaptedEmbedding, RowsDoNotDependOnTheOthers) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor table = uniform({50, 70}, dtype), tokens = random_ids(90, 50);
    const EmbeddingLowRank one = embedding_pair(uniform({8, 50}), uniform({70, 8})),
                           other = embedding_pair(uniform({3, 50}), uniform({70, 3}));
    const auto run = [&](const at::Tensor& own, const std::vector<EmbeddingTerm>& terms) {
      return adapted_embedding(own, at::embedding(table, own), terms);
    };
    const at::Tensor all = run(tokens, {{&one, {}}});
    for (const int64_t rows : {1, 2, 17, 64})
      for (const int64_t first : {0, 5, 26})
        EXPECT_TRUE(same_bits(run(tokens.narrow(0, first, rows), {{&one, {}}}),
                              all.narrow(0, first, rows)));
    const at::Tensor some = ids({0, 7, 33}), rest = ids({1, 89});
    const at::Tensor both = run(tokens, {{&one, some}, {&other, rest}});
    EXPECT_TRUE(same_bits(both.index_select(0, some), all.index_select(0, some)));
    EXPECT_TRUE(
        same_bits(both.index_select(0, rest), run(tokens, {{&other, {}}}).index_select(0, rest)));
    EXPECT_TRUE(same_bits(both.narrow(0, 34, 55), run(tokens, {}).narrow(0, 34, 55)));
  }
}

TEST(AdaptedEmbedding, RefusesPairsThatDoNotFit) {
  const EmbeddingLowRank pair = embedding_pair(uniform({2, 9}), uniform({4, 2}));
  const auto run = [&](const at::Tensor& table, const std::vector<EmbeddingTerm>& terms) {
    adapted_embedding(ids({1, 2}), at::embedding(table, ids({1, 2})), terms);
  };
  const EmbeddingLowRank mixed = embedding_pair(uniform({2, 9}), uniform({4, 3}));
  EXPECT_ERROR(run(uniform({9, 4}), {{&mixed, {}}}), ShapeError, "bad-shape", "A [R, V]");
  EXPECT_ERROR(run(uniform({9, 5}), {{&pair, {}}}), ShapeError, "bad-shape", "B [D, R]");
  EXPECT_ERROR(run(uniform({9, 4}), {{&pair, {}}, {&pair, {}}}), ShapeError, "terms-meet",
               "adapted_embedding");
}

/// Hidden states, a head of two blocks, and a pair beside it.
struct Heads {
  explicit Heads(at::ScalarType dtype, int64_t rows = 7, int64_t vocabulary = 8200)
      : hidden(uniform({rows, kDim}, dtype)),
        weight(uniform({vocabulary, kDim}, dtype)),
        a(uniform({kRank, kDim})),
        b(uniform({vocabulary, kRank})),
        targets(random_ids(rows, vocabulary)),
        head(packed_head(weight)),
        pair(head_pair(a, b)) {}
  AdaptedHead with(std::vector<HeadTerm> terms) const { return {head, std::move(terms)}; }
  /// By how much a log-probability may be off: both sums in float32, each rounded to the dtype.
  double error() const {
    const at::Tensor h = hidden.to(at::kDouble).abs();
    const at::Tensor sums =
        at::mm(h, weight.to(at::kDouble).abs().t()) +
        at::mm(at::mm(h, a.to(at::kDouble).abs().t()), b.to(at::kDouble).abs().t()) * kScale;
    const double most = sums.max().item<double>();
    return 2 * most * ((kDim + kRank + 2) * 0x1p-24 + 2 * roundoff(hidden.scalar_type())) +
           8 * 0x1p-24;
  }

  static constexpr int64_t kDim = 10, kRank = 3;
  at::Tensor hidden, weight, a, b, targets;
  VocabularyHead head;
  HeadLowRank pair;
};

at::Tensor logit_formula(const std::vector<at::Tensor>& in,
                         const at::Tensor& drop,
                         const at::Tensor& rows) {
  return with_low_rank(at::mm(in[0], in[1].t()), in[0] * drop, in[2], in[3], kScale, 0, rows);
}
at::Tensor logprob_formula(const at::Tensor& logits,
                           const at::Tensor& targets,
                           double temperature) {
  return at::gather(at::log_softmax(logits / temperature, 1), 1, targets.unsqueeze(1)).squeeze(1);
}

TEST(AdaptedHeads, LogprobsAreThoseOfTheSum) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const at::Tensor& rows : {at::Tensor(), ids({0, 3, 6}), ids({6})}) {
      const Heads c(dtype);
      const auto got =
          token_logprobs(c.hidden, c.with({{&c.pair, rows, {}}}), c.targets, 0.8, true);
      const at::Tensor logits = logit_formula({c.hidden.to(at::kDouble), c.weight.to(at::kDouble),
                                               c.a.to(at::kDouble), c.b.to(at::kDouble)},
                                              at::ones({7, Heads::kDim}, at::kDouble), rows);
      EXPECT_CLOSE(got.logprobs, logprob_formula(logits, c.targets, 0.8), 0, c.error() / 0.8);
      const at::Tensor p = at::log_softmax(logits / 0.8, 1);
      EXPECT_CLOSE(got.entropy, -(p.exp() * p).sum(1), 0, 20 * c.error() / 0.8);
    }
}

/// More rows than a chunk has, and terms of some of them: sampler and trainer share their bits.
TEST(AdaptedHeads, RowsDoNotDependOnTheOthersAndAreTheSamplers) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const Heads c(dtype, kLogprobRows + 90);
    const HeadLowRank other = head_pair(uniform({5, Heads::kDim}), uniform({8200, 5}));
    const at::Tensor some = ids({0, 7, 500, 511, 512, 600}), rest = ids({1, 513});
    const AdaptedHead mixed = c.with({{&c.pair, some, {}}, {&other, rest, {}}});
    const auto all = token_logprobs(c.hidden, mixed, c.targets, 0.9, true);
    const auto check = [&](const at::Tensor& rows, const AdaptedHead& head) {
      const at::Tensor hidden = c.hidden.index_select(0, rows),
                       targets = c.targets.index_select(0, rows);
      const auto own = token_logprobs(hidden, head, targets, 0.9, true);
      EXPECT_TRUE(same_bits(own.logprobs, all.logprobs.index_select(0, rows)));
      EXPECT_TRUE(same_bits(own.entropy, all.entropy.index_select(0, rows)));
      EXPECT_TRUE(same_bits(logprobs_of_logits(vocabulary_logits(hidden, head), targets, 0.9),
                            own.logprobs));
    };
    check(some, c.with({{&c.pair, {}, {}}}));
    check(rest, c.with({{&other, {}, {}}}));
    check(ids({2, 510, 601}), c.with({}));
    for (const int64_t row : {7, 600}) check(ids({row}), c.with({{&c.pair, ids({0}), {}}}));
    EXPECT_FALSE(
        same_bits(all.logprobs, token_logprobs(c.hidden, c.head, c.targets, 0.9, false).logprobs));
  }
}

TEST(AdaptedHeads, GradientsAreTheSlopesOfTheFormula) {
  const std::vector<int64_t> keys{5, -7, 1LL << 40, 0, 99, 3, 12};
  std::vector<uint64_t> mixed;
  for (const int64_t key : keys) mixed.push_back(mixed_key(static_cast<uint64_t>(key)));
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const at::Tensor& rows : {at::Tensor(), ids({1, 2, 4})})
      for (const double rate : {0.0, 0.3}) {
        const Heads c(dtype);
        const Dropout dropout{rate, rate > 0 ? ids(keys) : at::Tensor()};
        const at::Tensor drop = factors(at::empty({7, Heads::kDim}), rate, mixed);
        // The graph refers to them.
        VocabularyHead head;
        HeadLowRank pair;
        testing::expect_slopes(
            [&](const auto& in) {
              head = packed_head(in[1]);
              pair = head_pair(in[2], in[3]);
              return token_logprobs(in[0], {head, {{&pair, rows, dropout}}}, c.targets, 0.9, false)
                  .logprobs;
            },
            [&](const auto& in) {
              return logprob_formula(logit_formula(in, drop, rows), c.targets, 0.9);
            },
            {c.hidden, c.weight, c.a, c.b}, at::linspace(-1, 1, 7),
            // A probability is off by its logit's error, and each product by its roundings.
            2 * c.error() / 0.9 + 3 * roundoff(dtype) + std::sqrt(8200) * 0x1p-24);
      }
}

TEST(AdaptedHeads, RefusesPairsThatDoNotFit) {
  const Heads c(at::kFloat, 3, 50);
  const HeadLowRank narrow = head_pair(uniform({2, 4}), uniform({50, 2})),
                    small = head_pair(uniform({2, 10}), uniform({49, 2}));
  const auto run = [&](std::vector<HeadTerm> terms) {
    vocabulary_logits(c.hidden, c.with(std::move(terms)));
  };
  EXPECT_ERROR(run({{&narrow, {}, {}}}), ShapeError, "bad-shape", "A [R, D]");
  EXPECT_ERROR(run({{&small, {}, {}}}), ShapeError, "bad-shape", "B [V, R]");
  EXPECT_ERROR(run({{&c.pair, {}, {}}, {&c.pair, {}, {}}}), ShapeError, "terms-meet",
               "vocabulary_logits");
  EXPECT_ERROR(run({{&c.pair, {}, {0.5, {}}}}), ShapeError, "bad-dropout", "a key for each of 3");
}

}  // namespace
}  // namespace lockstep::ops
