// The causal convolution against its float64 reference, and against itself cut into calls.
// SPDX-License-Identifier: Apache-2.0
#include "ops/causal_conv.h"

#include <bit>

#include <gtest/gtest.h>

#include <ATen/core/IListRef.h>  // the list of at::cat

#include "ops/reference/causal_conv.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tests/ops/draw.h"
#include "tests/ops/families.h"
#include "tests/ops/finite_difference.h"
#include "tests/ops/targets.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"

namespace lockstep::ops {
namespace {

using testing::Draw;
using testing::draws;
using testing::same_bits;
using testing::sequences_of;
using testing::test_seed;

constexpr double kEps = 5.96e-8;            // half a spacing of float32 at 1
constexpr double kBfloat16Eps = 1 / 256.0;  // half a spacing of bfloat16 at 1

struct Case {
  at::Tensor x, weight;
  PackedSequences sequences;
};

Case draw_case(Draw& draw) {
  Case c;
  for (int64_t count = draw.pick({1, 2, 3, 5}); count > 0; --count)
    c.sequences.append(draw.pick({1, 2, 3, 4, 5, 63, 64, 65, 130}));
  const int64_t channels = draw.pick({1, 3, 16, 33, 100, 513});
  c.x = draw.normal({c.sequences.tokens(), channels});
  c.weight = draw.normal({channels, 1, draw.pick({1, 2, 4, 4, 5})});
  return c;
}

std::vector<at::Tensor> gradients_of(const Case& c, const at::Tensor& by, bool reference) {
  const std::vector<at::Tensor> leaves{c.x.detach().clone().set_requires_grad(true),
                                       c.weight.detach().clone().set_requires_grad(true)};
  const at::Tensor out = reference ? reference::causal_conv(leaves[0], leaves[1], c.sequences)
                                   : causal_conv(leaves[0], leaves[1], c.sequences);
  return gradients({out}, leaves, {by});
}

Case as_double(const Case& c) {
  return {c.x.to(at::kDouble), c.weight.to(at::kDouble), c.sequences};
}

TEST(CausalConv, EqualsReference) {
  Draw draw(test_seed(1));
  for (int64_t i = 0; i < draws(40); ++i) {
    SCOPED_TRACE(i);
    const Case c = draw_case(draw), wide = as_double(c);
    // A sum of at most 5 terms, then silu: its slope is at most 1.1, and it rounds about four
    // times.
    EXPECT_CLOSE(causal_conv(c.x, c.weight, c.sequences),
                 reference::causal_conv(wide.x, wide.weight, wide.sequences), 12 * kEps, 0);
  }
}

TEST(CausalConv, RoundsTheSumAndTheResultToBfloat16) {
  Draw draw(test_seed(2));
  for (int64_t i = 0; i < draws(20); ++i) {
    SCOPED_TRACE(i);
    const Case c = draw_case(draw);
    const at::Tensor x = c.x.to(at::kBFloat16), weight = c.weight.to(at::kBFloat16);
    const at::Tensor out = causal_conv(x, weight, c.sequences);
    EXPECT_EQ(out.scalar_type(), at::kBFloat16);
    // Two roundings. The sum's comes through silu, whose slope is at most 1.1, and where the
    // results are largest the sum is at most 1.2 times as large as they are.
    EXPECT_CLOSE(out,
                 reference::causal_conv(x.to(at::kDouble), weight.to(at::kDouble), c.sequences),
                 (1 + 1.1 * 1.2) * kBfloat16Eps, 0);
  }

  // One tap: sums half way between two bfloat16, 3.0234375 and 3.0390625, both of which are 3.03125
  // to even. As many channels as make whole vectors and a rest.
  const auto conv_of = [](double value, double tap) {
    const at::Tensor one = at::full({1, 37}, value, at::kBFloat16),
                     weight = at::full({37, 1, 1}, tap, at::kFloat);
    return causal_conv(one, weight, sequences_of({1})).view({37});
  };
  const at::Tensor rounded = at::silu(at::full({37}, 3.03125, at::kFloat)).to(at::kBFloat16);
  EXPECT_TRUE(same_bits(conv_of(1.0078125, 3.0), rounded));
  EXPECT_TRUE(same_bits(conv_of(1.0, 3.0390625), rounded));
}

/// Rounding must not make an infinity or a number of a NaN, whatever its bits are.
TEST(CausalConv, NaNStaysNaN) {
  for (const uint32_t bits : {0x7F800001U, 0x7FFFFFFFU, 0xFFFFFFFFU}) {
    const at::Tensor weight = at::full({37, 1, 1}, std::bit_cast<float>(bits), at::kFloat);
    for (const auto dtype : {at::kFloat, at::kBFloat16})
      EXPECT_TRUE(causal_conv(at::ones({2, 37}, dtype), weight, sequences_of({2}))
                      .isnan()
                      .all()
                      .item<bool>());
  }
}

TEST(CausalConv, GradientsEqualAutogradOfReference) {
  Draw draw(test_seed(3));
  for (int64_t i = 0; i < draws(30); ++i) {
    SCOPED_TRACE(i);
    const Case c = draw_case(draw);
    const at::Tensor by = draw.normal(c.x.sizes());
    const auto actual = gradients_of(c, by, false),
               expected = gradients_of(as_double(c), by.to(at::kDouble), true);
    EXPECT_CLOSE(actual[0], expected[0], 20 * kEps, 0);
    const double tokens = static_cast<double>(c.x.size(0));
    EXPECT_CLOSE(actual[1], expected[1], 20 * kEps * std::sqrt(tokens),
                 0);  // a sum over all tokens
  }
}

TEST(CausalConv, GradientsInBfloat16EqualReference) {
  Draw draw(test_seed(4));
  for (int64_t i = 0; i < draws(10); ++i) {
    SCOPED_TRACE(i);
    Case c = draw_case(draw);
    c.x = c.x.to(at::kBFloat16), c.weight = c.weight.to(at::kBFloat16);
    const at::Tensor by = draw.normal(c.x.sizes()).to(at::kBFloat16);
    const auto actual = gradients_of(c, by, false),
               expected = gradients_of(as_double(c), by.to(at::kDouble), true);
    for (size_t j = 0; j < 2; ++j) {
      EXPECT_EQ(actual[j].scalar_type(), at::kBFloat16);
      EXPECT_CLOSE(actual[j], expected[j], 2 * kBfloat16Eps, 0);
    }
  }
}

TEST(CausalConv, GradientsAreTheSlopesOfTheFormula) {
  Draw draw(test_seed(16));
  const PackedSequences sequences = sequences_of({7, 1, 3});
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const double rounding = dtype == at::kBFloat16 ? 2 * kBfloat16Eps : 0;
    testing::expect_slopes(
        [&](const auto& in) { return causal_conv(in[0], in[1], sequences); },
        [&](const auto& in) { return reference::causal_conv(in[0], in[1], sequences); },
        {draw.normal({11, 19}).to(dtype), draw.normal({19, 1, 4}).to(dtype)},
        draw.normal({11, 19}).to(dtype), 20 * kEps * std::sqrt(11.0) + rounding);
  }
}

TEST(CausalConv, PackedEqualsAlone) {
  Draw draw(test_seed(5));
  for (int64_t i = 0; i < draws(10); ++i) {
    const Case c = draw_case(draw);
    const at::Tensor packed = causal_conv(c.x, c.weight, c.sequences),
                     by = draw.normal(c.x.sizes());
    const auto packed_gradients = gradients_of(c, by, false);
    for (int64_t b = 0; b < c.sequences.count(); ++b) {
      const int64_t first = c.sequences.first_token(b), length = c.sequences.length(b);
      const Case alone{c.x.narrow(0, first, length), c.weight, sequences_of({length})};
      EXPECT_TRUE(same_bits(causal_conv(alone.x, alone.weight, alone.sequences),
                            packed.narrow(0, first, length)));
      const auto own = gradients_of(alone, by.narrow(0, first, length), false);
      EXPECT_TRUE(same_bits(own[0], packed_gradients[0].narrow(0, first, length)));
    }
  }
}

/// Rows that continue a shared sequence have the bits that they have behind a copy of their own,
/// and the gradients of the copies add up.
TEST(CausalConv, SharedEqualsUnshared) {
  Draw draw(test_seed(15));
  for (int64_t i = 0; i < draws(20); ++i) {
    SCOPED_TRACE(i);
    Case c = draw_case(draw);
    c.sequences = testing::draw_families(draw.engine());
    c.x = draw.normal({c.sequences.tokens(), c.x.size(1)});
    const testing::Unshared whole(c.sequences);
    EXPECT_TRUE(same_bits(causal_conv(c.x, c.weight, c.sequences),
                          causal_conv(c.x.index_select(0, whole.sources), c.weight, whole.sequences)
                              .index_select(0, whole.places)));
    const at::Tensor by = draw.normal(c.x.sizes());
    const auto actual = gradients_of(c, by, false),
               shared = gradients_of(as_double(c), by.to(at::kDouble), true);
    const Case wide = as_double(c);
    const std::vector<at::Tensor> leaves{wide.x.set_requires_grad(true),
                                         wide.weight.set_requires_grad(true)};
    const at::Tensor out =
        reference::causal_conv(leaves[0].index_select(0, whole.sources), leaves[1], whole.sequences)
            .index_select(0, whole.places);
    const auto expected = gradients({out}, leaves, {by.to(at::kDouble)});
    const double tokens = static_cast<double>(c.x.size(0));
    EXPECT_CLOSE(actual[0], expected[0], 20 * kEps, 0);
    EXPECT_CLOSE(actual[1], expected[1], 20 * kEps * std::sqrt(tokens), 0);
    EXPECT_CLOSE(shared[0], expected[0], 1e-14, 0);
  }
}

TEST(CausalConv, CachedInAnyPiecesEqualsWhole) {
  Draw draw(test_seed(6));
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const int64_t channels = 37, width = 4;
    const at::Tensor x = draw.normal({40, channels}).to(dtype),
                     weight = draw.normal({channels, 1, width}).to(dtype);
    const at::Tensor whole = causal_conv(x, weight, sequences_of({40}));
    for (const int64_t piece : {1, 2, 3, 5, 40}) {
      const at::Tensor pool = at::zeros({3, width - 1, channels}, dtype);
      pool.select(0, 1).fill_(5);
      std::vector<at::Tensor> outputs;
      for (int64_t first = 0; first < 40; first += piece) {
        const int64_t length = std::min(piece, 40 - first);
        outputs.push_back(causal_conv_cached(x.narrow(0, first, length), weight,
                                             sequences_of({length}), pool,
                                             std::vector<int64_t>{2}));
      }
      EXPECT_TRUE(same_bits(at::cat(outputs, 0), whole)) << "pieces of " << piece;
      EXPECT_TRUE(same_bits(pool.select(0, 2), x.narrow(0, 37, 3)));
      EXPECT_TRUE((pool.select(0, 1) == 5).all().item<bool>()) << "an unused slot changed";
    }
  }
}

TEST(CausalConv, ThreadCountDoesNotMatter) {
  Draw draw(test_seed(7));
  // Large enough for several threads.
  const Case c{draw.normal({450, 513}), draw.normal({513, 1, 4}), sequences_of({300, 10, 140})};
  const at::Tensor by = draw.normal(c.x.sizes());
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor out = causal_conv(c.x, c.weight, c.sequences);
  const auto grads = gradients_of(c, by, false);
  at::set_num_threads(3);
  EXPECT_TRUE(same_bits(causal_conv(c.x, c.weight, c.sequences), out));
  const auto again = gradients_of(c, by, false);
  at::set_num_threads(before);
  for (size_t j = 0; j < 2; ++j) EXPECT_TRUE(same_bits(again[j], grads[j]));
}

TEST(CausalConv, ReadsStridedRows) {
  Draw draw(test_seed(8));
  const at::Tensor wide = draw.normal({9, 20}), weight = draw.normal({7, 1, 4});
  const at::Tensor part = wide.narrow(1, 5, 7);
  EXPECT_TRUE(same_bits(causal_conv(part, weight, sequences_of({4, 5})),
                        causal_conv(part.contiguous(), weight, sequences_of({4, 5}))));
  const Case strided{part, weight, sequences_of({4, 5})};
  const at::Tensor leaf = wide.clone().set_requires_grad(true);
  const at::Tensor out = causal_conv(leaf.narrow(1, 5, 7), weight, strided.sequences);
  const at::Tensor through = gradients({out}, {leaf}, {at::ones_like(out)})[0];
  EXPECT_TRUE(same_bits(through.narrow(1, 5, 7).contiguous(),
                        gradients_of(strided, at::ones_like(out), false)[0]));
}

TEST(CausalConv, RefusesWrongShapes) {
  const at::Tensor x = at::zeros({5, 3}), weight = at::zeros({3, 1, 4});
  EXPECT_ERROR(causal_conv(x, weight, sequences_of({4})), ShapeError, "bad-shape",
               "expected x [4, C]");
  EXPECT_ERROR(causal_conv(x, at::zeros({4, 1, 4}), sequences_of({5})), ShapeError, "bad-shape",
               "weight [C, 1, W]");
  EXPECT_ERROR(causal_conv_cached(x, weight, sequences_of({5}), at::zeros({2, 4, 3}),
                                  std::vector<int64_t>{0}),
               ShapeError, "bad-shape", "pool");
  EXPECT_ERROR(causal_conv_cached(x, weight, sequences_of({2, 3}), at::zeros({2, 3, 3}),
                                  std::vector<int64_t>{0, 0}),
               ShapeError, "bad-slot", "2 different rows");
}

}  // namespace
}  // namespace lockstep::ops
