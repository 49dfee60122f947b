// causal_attention and paged_attention against the float64 formula, and the invariants that their
// bits keep.
// SPDX-License-Identifier: Apache-2.0
#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include <gtest/gtest.h>

#include <ATen/core/IListRef.h>  // the list of at::cat

#include "base/check.h"
#include "ops/reference/attention.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tests/ops/families.h"
#include "tests/ops/finite_difference.h"
#include "tests/ops/targets.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"

namespace lockstep::ops {
namespace {

using testing::draws;
using testing::same_bits;
using testing::test_seed;

/// A generated problem.
struct Case {
  PackedSequences sequences;
  int64_t heads = 1, kv_heads = 1, head_dim = 1;
  double scale = 1;
  at::Tensor q, k, v;  // [T, H, Dh], [T, Hkv, Dh]

  std::string text() const {
    std::string lengths;
    for (int64_t b = 0; b < sequences.count(); ++b)
      lengths += std::to_string(sequences.length(b)) + " ";
    return "lengths " + lengths + "heads " + std::to_string(heads) + "/" +
           std::to_string(kv_heads) + " dim " + std::to_string(head_dim);
  }
};

class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  int64_t pick(std::initializer_list<int64_t> values) {
    return *(values.begin() + random_() % values.size());
  }
  at::Tensor uniform(at::IntArrayRef shape, at::ScalarType dtype) {
    auto x = at::empty(shape, at::kFloat);
    std::uniform_real_distribution<float> distribution(-2, 2);
    std::generate_n(x.mutable_data_ptr<float>(), x.numel(), [&] { return distribution(random_); });
    return x.to(dtype);
  }
  Case make(at::ScalarType dtype, int64_t num_sequences) {
    Case c;
    for (int64_t b = 0; b < num_sequences; ++b)
      c.sequences.append(pick({1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 127}));
    c.kv_heads = pick({1, 2, 3});
    c.heads = c.kv_heads * pick({1, 2, 3, 4, 7});
    c.head_dim = pick({1, 3, 8, 17, 31, 32, 33, 64, 80, 128});
    fill(c, dtype);
    return c;
  }
  void fill(Case& c, at::ScalarType dtype) {
    c.scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
    c.q = uniform({c.sequences.tokens(), c.heads, c.head_dim}, dtype);
    c.k = uniform({c.sequences.tokens(), c.kv_heads, c.head_dim}, dtype);
    c.v = uniform({c.sequences.tokens(), c.kv_heads, c.head_dim}, dtype);
  }
  std::mt19937_64& random() { return random_; }

 private:
  std::mt19937_64 random_;
};

at::Tensor attend(const Case& c) { return causal_attention(c.q, c.k, c.v, c.sequences, c.scale); }

at::Tensor exact(const Case& c) {
  return reference::causal_attention(c.q.to(at::kDouble), c.k.to(at::kDouble), c.v.to(at::kDouble),
                                     c.sequences, c.scale);
}

/// Worst error of an output, |v| <= 2. A score, Dh products summed one after another, is off by (Dh
/// + 2) u |q| |k| scale; twice that is the relative error of a probability; the sums over S keys
/// add S u each.
double output_bound(const Case& c, at::ScalarType dtype) {
  const double u = std::ldexp(1.0, -24);
  int64_t longest = 0;
  for (int64_t b = 0; b < c.sequences.count(); ++b)
    longest = std::max(longest, c.sequences.length(b));
  const double score_sum = 4.0 * static_cast<double>(c.head_dim) * c.scale;  // |q|, |k| <= 2
  const double score_error = static_cast<double>(c.head_dim + 2) * u * score_sum;
  const double inside = 2 * score_error + 2 * static_cast<double>(longest + 8) * u;
  return 2 * (inside + (dtype == at::kBFloat16 ? std::ldexp(1.0, -8) : 0));
}

void expect_near_formula(at::ScalarType dtype) {
  Generator generate(test_seed(11));
  for (int64_t i = 0; i < draws(40); ++i) {
    const Case c = generate.make(dtype, generate.pick({1, 2, 4}));
    SCOPED_TRACE(c.text());
    const auto output = attend(c);
    EXPECT_EQ(output.scalar_type(), dtype);
    EXPECT_CLOSE(output, exact(c), 0.0, output_bound(c, dtype));
  }
}

TEST(Attention, IsTheFormulaInFloat32) { expect_near_formula(at::kFloat); }
TEST(Attention, IsTheFormulaInBFloat16) { expect_near_formula(at::kBFloat16); }

/// Means over many keys are far smaller than the largest value that the bound above is for.
TEST(Attention, RoundsBFloat16Once) {
  Generator generate(test_seed(27));
  for (const int64_t head_dim : {19, 48, 101}) {
    SCOPED_TRACE(head_dim);
    Case c;
    for (const int64_t length : {70, 3}) c.sequences.append(length);
    c.heads = 4, c.kv_heads = 2, c.head_dim = head_dim;
    generate.fill(c, at::kBFloat16);
    Case wide = c;
    for (auto* x : {&wide.q, &wide.k, &wide.v}) *x = x->to(at::kFloat);
    EXPECT_TRUE(same_bits(attend(c), attend(wide).to(at::kBFloat16)));
  }
}

/// The bits of a sequence's rows do not depend on what it is packed with.
TEST(Attention, PackedEqualsAlone) {
  Generator generate(test_seed(12));
  for (int64_t i = 0; i < draws(20); ++i) {
    const Case c = generate.make(i % 2 ? at::kFloat : at::kBFloat16, 5);
    SCOPED_TRACE(c.text());
    const auto together = attend(c);
    for (int64_t b = 0; b < c.sequences.count(); ++b) {
      const int64_t start = c.sequences.first_token(b), length = c.sequences.length(b);
      PackedSequences one;
      one.append(length);
      const auto alone =
          causal_attention(c.q.narrow(0, start, length), c.k.narrow(0, start, length),
                           c.v.narrow(0, start, length), one, c.scale);
      EXPECT_TRUE(same_bits(alone, together.narrow(0, start, length)));
    }
  }
}

/// Caches whose unused rows are NaN, with the pages of all sequences in random order.
struct Cache {
  at::Tensor k, v;
  PagedBatch batch;  // no new tokens yet

  Cache(const Case& c, int64_t page_size, std::mt19937_64& random) {
    const int64_t count = c.sequences.count();
    int64_t longest = 0;
    for (int64_t b = 0; b < count; ++b) longest = std::max(longest, c.sequences.length(b));
    batch.max_blocks = (longest + page_size - 1) / page_size;
    const int64_t pages = count * batch.max_blocks + 2;
    std::vector<int32_t> order(pages);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    batch.block_table.assign(order.begin(), order.begin() + count * batch.max_blocks);
    batch.context_lengths.assign(count, 0);
    k = at::full({pages, c.kv_heads, page_size, c.head_dim}, NAN, c.k.options());
    v = k.clone();
  }

  /// Runs the next `lengths[b]` > 0 tokens of each sequence, the rows `tokens` of the case.
  at::Tensor run(const Case& c, const std::vector<int64_t>& lengths, const at::Tensor& tokens) {
    batch.sequences = {};
    for (size_t b = 0; b < lengths.size(); ++b) {
      batch.sequences.append(lengths[b]);
      batch.context_lengths[b] += static_cast<int32_t>(lengths[b]);
    }
    store_keys_values(c.k.index_select(0, tokens), c.v.index_select(0, tokens), k, v, batch);
    return paged_attention(c.q.index_select(0, tokens), k, v, batch, c.scale);
  }
};

TEST(Attention, PagedEqualsPacked) {
  Generator generate(test_seed(13));
  for (int64_t i = 0; i < draws(20); ++i) {
    const Case c = generate.make(i % 2 ? at::kFloat : at::kBFloat16, 4);
    SCOPED_TRACE(c.text());
    const auto packed = attend(c);
    std::vector<int64_t> lengths;
    for (int64_t b = 0; b < c.sequences.count(); ++b) lengths.push_back(c.sequences.length(b));
    for (const int64_t page_size : {1, 7, 16, 32, 64, 96}) {
      Cache cache(c, page_size, generate.random());
      const auto all = at::arange(c.sequences.tokens(), at::kLong);
      EXPECT_TRUE(same_bits(cache.run(c, lengths, all), packed)) << "page size " << page_size;
    }
  }
}

/// Prefill in pieces, then token by token, gives the bits of one call.
TEST(Attention, SplitIntoCallsEqualsOneCall) {
  Generator generate(test_seed(14));
  for (int64_t i = 0; i < draws(12); ++i) {
    Case c = generate.make(i % 2 ? at::kFloat : at::kBFloat16, 1);
    SCOPED_TRACE(c.text());
    const auto whole = attend(c);
    Cache cache(c, 16, generate.random());
    for (int64_t done = 0; done < c.sequences.tokens();) {
      const int64_t step =
          std::min(c.sequences.tokens() - done,
                   done == 0 ? generate.pick({1, 5, 16, 40}) : generate.pick({1, 1, 3}));
      const auto part = cache.run(c, {step}, at::arange(done, done + step, at::kLong));
      ASSERT_TRUE(same_bits(part, whole.narrow(0, done, step))) << "tokens from " << done;
      done += step;
    }
  }
}

TEST(Attention, ThreadCountDoesNotMatter) {
  Generator generate(test_seed(15));
  const Case c = generate.make(at::kBFloat16, 9);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = attend(c);
  at::set_num_threads(3);
  const auto three = attend(c);
  at::set_num_threads(threads);
  EXPECT_TRUE(same_bits(one, three));
}

/// Slices of a fused projection need no copy, and give the same bits as copies.
TEST(Attention, TakesSlicesOfAFusedProjection) {
  Generator generate(test_seed(16));
  Case c = generate.make(at::kBFloat16, 3);
  const auto fused = at::cat({c.q, c.k, c.v}, 1);
  const auto sliced =
      causal_attention(fused.narrow(1, 0, c.heads), fused.narrow(1, c.heads, c.kv_heads),
                       fused.narrow(1, c.heads + c.kv_heads, c.kv_heads), c.sequences, c.scale);
  EXPECT_TRUE(same_bits(sliced, attend(c)));
}

/// Large scores neither overflow nor lose the largest one.
TEST(Attention, HoldsForLargeScores) {
  Generator generate(test_seed(17));
  Case c;
  c.sequences.append(70);
  c.head_dim = 4;
  generate.fill(c, at::kFloat);
  c.scale = 100;
  EXPECT_CLOSE(attend(c), exact(c), 0.0,
               1e-3);  // scores up to 1600 in float32: 2 * 1600 * 2^-24 * 4
}

TEST(Attention, ShowsABrokenKey) {
  Generator generate(test_seed(18));
  Case c;
  c.sequences.append(40);
  c.head_dim = 8;
  generate.fill(c, at::kFloat);
  c.k.select(0, 3).fill_(NAN);
  const auto output = attend(c);
  EXPECT_TRUE(output.narrow(0, 3, 37).isnan().all().item<bool>());
  EXPECT_FALSE(output.narrow(0, 0, 3).isnan().any().item<bool>());
}

/// A value that is not a number stays with the rows that see its block.
TEST(Attention, ABrokenValueLeavesEarlierBlocksAlone) {
  Generator generate(test_seed(26));
  Case c;
  c.sequences.append(70);
  c.head_dim = 8;
  generate.fill(c, at::kFloat);
  const auto sound = attend(c);
  c.v.select(0, 40).fill_(NAN);
  const auto output = attend(c);
  EXPECT_TRUE(same_bits(output.narrow(0, 0, 32), sound.narrow(0, 0, 32)));
  EXPECT_TRUE(output.narrow(0, 40, 30).isnan().all().item<bool>());
}

TEST(Attention, RefusesHeadsThatDoNotDivide) {
  PackedSequences sequences;
  sequences.append(2);
  const auto q = at::zeros({2, 3, 4}), k = at::zeros({2, 2, 4});
  EXPECT_ERROR(causal_attention(q, k, k, sequences, 1.0), ShapeError, "bad-shape", "[2, 3, 4]");
}

TEST(Attention, RefusesAPageOutsideOfTheCache) {
  const auto cache = at::zeros({2, 1, 16, 4});
  PagedBatch batch;
  batch.sequences.append(1);
  batch.context_lengths = {1};
  batch.block_table = {2};
  batch.max_blocks = 1;
  EXPECT_ERROR(paged_attention(at::zeros({1, 1, 4}), cache, cache, batch, 1.0), ShapeError,
               "bad-shape", "got 2");
}

struct Gradients {
  at::Tensor dq, dk, dv;
};

template <class Function>
Gradients gradients_of(const Case& c, at::ScalarType dtype, const at::Tensor& dy, Function&& f) {
  Case leaf = c;
  for (auto* x : {&leaf.q, &leaf.k, &leaf.v})
    *x = x->detach().to(dtype).clone().set_requires_grad(true);
  const auto g = gradients({f(leaf)}, {leaf.q, leaf.k, leaf.v}, {dy.to(dtype)});
  return {g[0], g[1], g[2]};
}

/// Roundings are as good as random: a score's sum is off by sqrt(Dh) u or so, the sums over keys
/// and queries by sqrt(S) u, some times each; 64 sqrt(128) u is 4e-5. In bfloat16 the output in
/// delta and the result are rounded, which is 2^-8 of a typical element each, and the largest of
/// thousands may be some times that.
double gradient_bound(at::ScalarType dtype) { return dtype == at::kBFloat16 ? 5 * 0x1p-8 : 4e-5; }

void expect_gradients(at::ScalarType dtype) {
  const double rtol = gradient_bound(dtype);
  Generator generate(test_seed(19));
  for (int64_t i = 0; i < draws(30); ++i) {
    const Case c = generate.make(dtype, generate.pick({1, 3}));
    SCOPED_TRACE(c.text());
    const auto dy = generate.uniform(c.q.sizes(), dtype);
    const auto ours = gradients_of(c, dtype, dy, attend);
    const auto expected = gradients_of(c, at::kDouble, dy, exact);
    EXPECT_EQ(ours.dk.scalar_type(), dtype);
    // With one key, dq and dk are zero: what is left is the rounding of numbers of dv's size.
    const double floor = rtol * expected.dv.abs().max().item<double>();
    EXPECT_CLOSE(ours.dq, expected.dq, rtol, floor);
    EXPECT_CLOSE(ours.dk, expected.dk, rtol, floor);
    EXPECT_CLOSE(ours.dv, expected.dv, rtol, 0.0);
  }
}

TEST(Attention, GradientsAreTheFormulasInFloat32) { expect_gradients(at::kFloat); }
TEST(Attention, GradientsAreTheFormulasInBFloat16) { expect_gradients(at::kBFloat16); }

/// The bound above is wide for keys and queries, whose gradients are small. From the output as it
/// was rounded, float32 sums and one rounding are all that is left.
TEST(Attention, BFloat16GradientsRoundOnce) {
  Generator generate(test_seed(24));
  for (const int64_t head_dim : {19, 48, 101}) {
    SCOPED_TRACE(head_dim);
    Case c;
    c.sequences.append(70);
    c.heads = 4, c.kv_heads = 2, c.head_dim = head_dim;
    generate.fill(c, at::kBFloat16);
    const auto dy = generate.uniform(c.q.sizes(), at::kBFloat16);
    const auto ours = gradients_of(c, at::kBFloat16, dy, attend);
    // [H, T, Dh], a query head's own keys and values beside it.
    const auto by_head = [&](const at::Tensor& x) {
      return x.to(at::kDouble).repeat_interleave(c.heads / x.size(1), 1).transpose(0, 1);
    };
    const auto q = by_head(c.q), k = by_head(c.k), v = by_head(c.v), dout = by_head(dy);
    const auto seen = at::ones({70, 70}, at::kBool).tril();
    const auto p = at::softmax(
        (at::matmul(q, k.transpose(1, 2)) * c.scale).masked_fill(seen.logical_not(), -INFINITY),
        -1);
    const auto delta = (dout * by_head(attend(c))).sum(-1, /*keepdim=*/true);
    const auto dscores = p * (at::matmul(dout, v.transpose(1, 2)) - delta) * c.scale;
    const auto over_group = [&](const at::Tensor& x) {
      return x.transpose(0, 1).reshape({70, 2, 2, head_dim}).sum(2);
    };
    const auto expect = [&](const at::Tensor& actual, const at::Tensor& exact) {
      EXPECT_WITHIN(actual, exact,
                    exact.abs() * 0x1p-8 + gradient_bound(at::kFloat) * exact.abs().max());
    };
    expect(ours.dq, at::matmul(dscores, k).transpose(0, 1));
    expect(ours.dk, over_group(at::matmul(dscores.transpose(1, 2), q)));
    expect(ours.dv, over_group(at::matmul(p.transpose(1, 2), dout)));
  }
}

/// Where a parent's own rows give nothing, its gradients are those that its only child would leave
/// there as one sequence with it.
TEST(Attention, AnOnlyChildsGradientsAreThoseOfOneSequence) {
  Generator generate(test_seed(25));
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t head_dim : {19, 48}) {
      SCOPED_TRACE(head_dim);
      Case c;
      c.sequences.append(45);
      c.sequences.append(38, 0);
      c.heads = 4, c.kv_heads = 2, c.head_dim = head_dim;
      generate.fill(c, dtype);
      auto dy = generate.uniform(c.q.sizes(), dtype);
      dy.narrow(0, 0, 45).zero_();
      Case whole = c;
      whole.sequences = testing::sequences_of({83});
      const auto ours = gradients_of(c, dtype, dy, attend),
                 expected = gradients_of(whole, dtype, dy, attend);
      EXPECT_TRUE(same_bits(ours.dq, expected.dq));
      EXPECT_TRUE(same_bits(ours.dk, expected.dk));
      EXPECT_TRUE(same_bits(ours.dv, expected.dv));
    }
}

TEST(Attention, GradientsAreTheSlopesOfTheFormula) {
  Generator generate(test_seed(23));
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    Case c;
    for (const int64_t length : {35, 1, 5}) c.sequences.append(length);
    c.heads = 4, c.kv_heads = 2, c.head_dim = 19;
    generate.fill(c, dtype);
    testing::expect_slopes(
        [&](const auto& in) { return causal_attention(in[0], in[1], in[2], c.sequences, c.scale); },
        [&](const auto& in) {
          return reference::causal_attention(in[0], in[1], in[2], c.sequences, c.scale);
        },
        {c.q, c.k, c.v}, generate.uniform(c.q.sizes(), dtype), gradient_bound(dtype));
  }
}

/// A sequence's gradients have the same bits in any pack and with any number of threads.
TEST(Attention, PackedGradientsEqualAlone) {
  Generator generate(test_seed(20));
  const Case c = generate.make(at::kBFloat16, 4);
  SCOPED_TRACE(c.text());
  const auto dy = generate.uniform(c.q.sizes(), at::kBFloat16);
  const auto together = gradients_of(c, at::kBFloat16, dy, attend);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  for (int64_t b = 0; b < c.sequences.count(); ++b) {
    const int64_t start = c.sequences.first_token(b), length = c.sequences.length(b);
    Case one = c;
    one.sequences = {};
    one.sequences.append(length);
    for (auto* x : {&one.q, &one.k, &one.v}) *x = x->narrow(0, start, length);
    const auto alone = gradients_of(one, at::kBFloat16, dy.narrow(0, start, length), attend);
    EXPECT_TRUE(same_bits(alone.dq, together.dq.narrow(0, start, length)));
    EXPECT_TRUE(same_bits(alone.dk, together.dk.narrow(0, start, length)));
    EXPECT_TRUE(same_bits(alone.dv, together.dv.narrow(0, start, length)));
  }
  at::set_num_threads(threads);
}

Case family_case(Generator& generate, at::ScalarType dtype) {
  Case c = generate.make(dtype, 1);
  c.sequences = testing::draw_families(generate.random());
  generate.fill(c, dtype);
  return c;
}

/// Rows that continue a shared sequence have the bits that they have behind a copy of their own.
TEST(Attention, SharedEqualsUnshared) {
  Generator generate(test_seed(21));
  for (int64_t i = 0; i < draws(20); ++i) {
    const Case c = family_case(generate, i % 2 ? at::kFloat : at::kBFloat16);
    SCOPED_TRACE(c.text());
    const testing::Unshared whole(c.sequences);
    Case copied = c;
    copied.sequences = whole.sequences;
    for (auto* x : {&copied.q, &copied.k, &copied.v}) *x = x->index_select(0, whole.sources);
    EXPECT_TRUE(same_bits(attend(c), attend(copied).index_select(0, whole.places)));
  }
}

void expect_shared_gradients(at::ScalarType dtype) {
  const double rtol = gradient_bound(dtype);
  Generator generate(test_seed(22));
  for (int64_t i = 0; i < draws(15); ++i) {
    const Case c = family_case(generate, dtype);
    SCOPED_TRACE(c.text());
    const testing::Unshared whole(c.sequences);
    const auto dy = generate.uniform(c.q.sizes(), dtype);
    const auto ours = gradients_of(c, dtype, dy, attend);
    const auto expected = gradients_of(c, at::kDouble, dy, [&](const Case& leaf) {
      const auto copy = [&](const at::Tensor& x) { return x.index_select(0, whole.sources); };
      return reference::causal_attention(copy(leaf.q), copy(leaf.k), copy(leaf.v), whole.sequences,
                                         leaf.scale)
          .index_select(0, whole.places);
    });
    const double floor = rtol * expected.dv.abs().max().item<double>();
    EXPECT_CLOSE(ours.dq, expected.dq, rtol, floor);
    EXPECT_CLOSE(ours.dk, expected.dk, rtol, floor);
    EXPECT_CLOSE(ours.dv, expected.dv, rtol, 0.0);
    const auto formula = gradients_of(c, at::kDouble, dy, exact);
    EXPECT_CLOSE(formula.dk, expected.dk, 1e-12, 1e-12);
  }
}
TEST(Attention, SharedGradientsAreTheUnsharedSumsInFloat32) { expect_shared_gradients(at::kFloat); }
TEST(Attention, SharedGradientsAreTheUnsharedSumsInBFloat16) {
  expect_shared_gradients(at::kBFloat16);
}

}  // namespace
}  // namespace lockstep::ops
