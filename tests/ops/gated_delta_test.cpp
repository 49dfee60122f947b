// The gated delta rule against its float64 reference: values, gradients, and what must not change a
// bit.
// SPDX-License-Identifier: Apache-2.0
#include "ops/gated_delta.h"

#include <cmath>

#include <gtest/gtest.h>

#include <ATen/core/IListRef.h>  // the list of at::cat

#include "ops/reference/gated_delta.h"
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

constexpr double kEps = 5.96e-8;  // half a spacing of float32 at 1

struct Dims {
  int64_t key_heads, value_heads, key_dim, value_dim;
};

/// Inputs and a packing, drawn from a seed.
struct Case {
  GatedDeltaInputs inputs;
  PackedSequences sequences;
  at::Tensor initial_state;
  Dims dims;

  /// Rounding errors of a state's column: each token adds one of about sqrt(Dk) eps of the column's
  /// norm (a dot product with a key of norm 1), earlier ones are carried on with factors <= 1, and
  /// T independent ones grow as sqrt(T).
  double bound() const {
    int64_t longest = 1;
    for (int64_t b = 0; b < sequences.count(); ++b)
      longest = std::max(longest, sequences.length(b));
    return 4 * kEps * std::sqrt(static_cast<double>((dims.key_dim + 2) * longest));
  }
  std::vector<at::Tensor> leaves() const {
    return {inputs.q, inputs.k, inputs.v, inputs.log_decay, inputs.beta, initial_state};
  }
};

/// Decays as a trained model has them: rate = e^A_log from 0.01 to 16, one a head, times softplus.
Case draw_case(Draw& draw,
               const Dims& dims,
               const std::vector<int64_t>& lengths,
               double rate_scale = 1) {
  Case c;
  c.dims = dims;
  for (const int64_t length : lengths) c.sequences.append(length);
  const int64_t tokens = c.sequences.tokens();
  c.inputs.q = draw.normal({tokens, dims.key_heads, dims.key_dim});
  c.inputs.k = draw.normal({tokens, dims.key_heads, dims.key_dim});
  c.inputs.v = draw.normal({tokens, dims.value_heads, dims.value_dim});
  const at::Tensor rate =
      at::pow(at::full({dims.value_heads}, 10.0), draw.normal({dims.value_heads}).clamp(-2, 1.2));
  c.inputs.log_decay =
      -at::softplus(draw.normal({tokens, dims.value_heads})) * rate * rate_scale * 0.1;
  c.inputs.beta = draw.normal({tokens, dims.value_heads}).sigmoid();
  c.initial_state =
      draw.normal({c.sequences.count(), dims.value_heads, dims.key_dim, dims.value_dim}) * 0.3;
  return c;
}

Case draw_small_case(Draw& draw) {
  const int64_t key_heads = draw.pick({1, 2, 3});
  const Dims dims{key_heads, key_heads * draw.pick({1, 1, 2, 3}), draw.pick({1, 3, 8, 16, 17, 40}),
                  draw.pick({1, 5, 16, 31, 32, 33, 70})};
  std::vector<int64_t> lengths;
  for (int64_t count = draw.pick({1, 2, 3, 4}); count > 0; --count)
    lengths.push_back(draw.pick({1, 2, 7, 8, 9, 63, 64, 65, 127, 130}));
  return draw_case(draw, dims, lengths);
}

at::Tensor to_double(const at::Tensor& x) { return x.defined() ? x.detach().to(at::kDouble) : x; }

GatedDeltaInputs in_double(const GatedDeltaInputs& in) {
  return {to_double(in.q), to_double(in.k), to_double(in.v), to_double(in.log_decay),
          to_double(in.beta)};
}

GatedDeltaInputs narrow(const GatedDeltaInputs& in, int64_t first, int64_t length) {
  const auto part = [&](const at::Tensor& x) { return x.narrow(0, first, length); };
  return {part(in.q), part(in.k), part(in.v), part(in.log_decay), part(in.beta)};
}

/// The gradients of <output, by_output> + <final_state, by_state> for all inputs and the initial
/// state.
template <class Rule>
std::vector<at::Tensor> gradients_of(const Rule& rule,
                                     const Case& c,
                                     const at::Tensor& by_output,
                                     const at::Tensor& by_state) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& x : c.leaves())
    leaves.push_back(x.detach().clone().set_requires_grad(true));
  const GatedDeltaOutputs out =
      rule({leaves[0], leaves[1], leaves[2], leaves[3], leaves[4]}, c.sequences, leaves[5]);
  return gradients({out.output, out.final_state}, leaves, {by_output, by_state});
}

Case as_double(const Case& c) {
  return {in_double(c.inputs), c.sequences, to_double(c.initial_state), c.dims};
}

/// Gradients are held to 4 c.bound(): errors of the states and of their gradients meet in products,
/// twice the forward's, twice more for the sums. Beside that, a key of one element has no
/// direction: its gradient is what is left when dy - y <dy, y> cancels to eps / (x^2 + eps) of dy,
/// and its error goes by dy.
double cancelled(const Case& c, const std::vector<at::Tensor>& expected, size_t j) {
  if (j > 1 || c.dims.key_dim > 1) return 0;
  const at::Tensor x = to_double(c.leaves()[j]);
  return 4 * c.bound() * (expected[j] * (x * x + 1e-6) / 1e-6).abs().max().item<double>();
}

constexpr const char* kNames[] = {"q", "k", "v", "log_decay", "beta", "initial_state"};

TEST(GatedDelta, EqualsReference) {
  Draw draw(test_seed(1));
  for (int64_t i = 0; i < draws(20); ++i) {
    SCOPED_TRACE(i);
    const Case c = draw_small_case(draw);
    const auto actual = gated_delta_rule(c.inputs, c.sequences, c.initial_state);
    const auto expected =
        reference::gated_delta_rule(in_double(c.inputs), c.sequences, to_double(c.initial_state));
    EXPECT_CLOSE(actual.output, expected.output, c.bound(), 0);
    EXPECT_CLOSE(actual.final_state, expected.final_state, c.bound(), 0);
  }
}

TEST(GatedDelta, EqualsReferenceAtModelSize) {
  Draw draw(test_seed(2));
  const Case c = draw_case(draw, {2, 6, 128, 128}, {200, 1, 56});
  const auto actual = gated_delta_rule(c.inputs, c.sequences);
  const auto expected = reference::gated_delta_rule(in_double(c.inputs), c.sequences);
  EXPECT_CLOSE(actual.output, expected.output, c.bound(), 0);
  EXPECT_CLOSE(actual.final_state, expected.final_state, c.bound(), 0);
}

TEST(GatedDelta, EqualsReferenceOverAThousandTokensThatForgetNothing) {
  Draw draw(test_seed(3));
  Case c = draw_case(draw, {1, 1, 16, 32}, {1024});
  c.inputs.log_decay.zero_();
  const auto actual = gated_delta_rule(c.inputs, c.sequences);
  const auto expected = reference::gated_delta_rule(in_double(c.inputs), c.sequences);
  EXPECT_CLOSE(actual.output, expected.output, c.bound(), 0);
}

TEST(GatedDelta, StrongDecayForgetsAllButTheToken) {
  Draw draw(test_seed(4));
  Case c = draw_case(draw, {1, 2, 16, 8}, {100});
  c.inputs.log_decay.fill_(-1000);
  const auto actual = gated_delta_rule(c.inputs, c.sequences, c.initial_state);
  const auto expected =
      reference::gated_delta_rule(in_double(c.inputs), c.sequences, to_double(c.initial_state));
  EXPECT_CLOSE(actual.output, expected.output, 4 * kEps * 4, 0);  // one token deep: sqrt(Dk) = 4
  const auto grads = gradients_of(gated_delta_rule, c, at::ones_like(actual.output),
                                  at::ones_like(actual.final_state));
  for (const at::Tensor& gradient : grads) EXPECT_TRUE(gradient.isfinite().all().item<bool>());
  EXPECT_EQ(grads[5].abs().max().item<float>(), 0);
}

/// Results and gradients, with whole tiles and vectors alone and with rests.
TEST(GatedDelta, RoundsBfloat16Once) {
  Draw draw(test_seed(5));
  for (const Dims& dims : {Dims{2, 4, 16, 32}, Dims{2, 4, 19, 37}, Dims{1, 3, 37, 70}}) {
    SCOPED_TRACE(dims.key_dim);
    Case c = draw_case(draw, dims, {70, 3});
    for (at::Tensor* x : {&c.inputs.q, &c.inputs.k, &c.inputs.v}) *x = x->to(at::kBFloat16);
    Case wide = c;
    for (at::Tensor* x : {&wide.inputs.q, &wide.inputs.k, &wide.inputs.v}) *x = x->to(at::kFloat);
    const auto actual = gated_delta_rule(c.inputs, c.sequences);
    const auto expected = gated_delta_rule(wide.inputs, c.sequences);
    EXPECT_TRUE(same_bits(actual.output, expected.output.to(at::kBFloat16)));
    EXPECT_TRUE(same_bits(actual.final_state, expected.final_state));
    const at::Tensor by_output = draw.normal(c.inputs.v.sizes()).to(at::kBFloat16),
                     by_state = draw.normal(c.initial_state.sizes());
    const auto found = gradients_of(gated_delta_rule, c, by_output, by_state);
    const auto rounded = gradients_of(gated_delta_rule, wide, by_output.to(at::kFloat), by_state);
    for (size_t j = 0; j < found.size(); ++j)
      EXPECT_TRUE(same_bits(found[j], rounded[j].to(found[j].scalar_type()))) << kNames[j];
  }
}

TEST(GatedDelta, ReadsStridedInputs) {
  Draw draw(test_seed(6));
  const Case c = draw_case(draw, {2, 2, 8, 8}, {20, 5});
  const at::Tensor packed = at::cat({c.inputs.q, c.inputs.k, c.inputs.v}, 1);
  GatedDeltaInputs strided = c.inputs;
  strided.q = packed.narrow(1, 0, 2), strided.k = packed.narrow(1, 2, 2),
  strided.v = packed.narrow(1, 4, 2);
  EXPECT_TRUE(same_bits(gated_delta_rule(strided, c.sequences).output,
                        gated_delta_rule(c.inputs, c.sequences).output));
}

TEST(GatedDelta, GradientsEqualAutogradOfReference) {
  Draw draw(test_seed(7));
  for (int64_t i = 0; i < draws(15); ++i) {
    SCOPED_TRACE(i);
    const Case c = draw_small_case(draw);
    const at::Tensor by_output = draw.normal(c.inputs.v.sizes()),
                     by_state = draw.normal(c.initial_state.sizes());
    const auto actual = gradients_of(gated_delta_rule, c, by_output, by_state);
    const auto expected = gradients_of(reference::gated_delta_rule, as_double(c),
                                       to_double(by_output), to_double(by_state));
    for (size_t j = 0; j < actual.size(); ++j) {
      SCOPED_TRACE(kNames[j]);
      EXPECT_CLOSE(actual[j], expected[j], 4 * c.bound(), cancelled(c, expected, j));
    }
  }
}

TEST(GatedDelta, GradientsEqualAutogradOfReferenceAtModelSize) {
  Draw draw(test_seed(8));
  const Case c = draw_case(draw, {1, 3, 128, 128}, {150, 2});
  const at::Tensor by_output = draw.normal(c.inputs.v.sizes()),
                   by_state = draw.normal(c.initial_state.sizes());
  const auto actual = gradients_of(gated_delta_rule, c, by_output, by_state);
  const auto expected = gradients_of(reference::gated_delta_rule, as_double(c),
                                     to_double(by_output), to_double(by_state));
  for (size_t j = 0; j < actual.size(); ++j) {
    SCOPED_TRACE(kNames[j]);
    EXPECT_CLOSE(actual[j], expected[j], 4 * c.bound(), cancelled(c, expected, j));
  }
}

/// The case with q, k and v in bfloat16, as a bfloat16 model hands them over.
Case in_bfloat16(Case c) {
  for (at::Tensor* x : {&c.inputs.q, &c.inputs.k, &c.inputs.v}) *x = x->to(at::kBFloat16);
  return c;
}
constexpr double kBfloat16Rounding = 0x1p-8;

TEST(GatedDelta, GradientsInBfloat16EqualAutogradOfReference) {
  Draw draw(test_seed(24));
  for (int64_t i = 0; i < draws(10); ++i) {
    SCOPED_TRACE(i);
    const Case c = in_bfloat16(draw_small_case(draw));
    const at::Tensor by_output = draw.normal(c.inputs.v.sizes()).to(at::kBFloat16),
                     by_state = draw.normal(c.initial_state.sizes());
    const auto actual = gradients_of(gated_delta_rule, c, by_output, by_state);
    const auto expected = gradients_of(reference::gated_delta_rule, as_double(c),
                                       to_double(by_output), to_double(by_state));
    for (size_t j = 0; j < actual.size(); ++j) {
      SCOPED_TRACE(kNames[j]);
      // Float32 inside; those of q, k and v are rounded once.
      const bool is_rounded = j < 3;
      EXPECT_EQ(actual[j].scalar_type(), is_rounded ? at::kBFloat16 : at::kFloat);
      EXPECT_CLOSE(actual[j], expected[j], 4 * c.bound() + (is_rounded ? kBfloat16Rounding : 0),
                   cancelled(c, expected, j));
    }
  }
}

TEST(GatedDelta, GradientsAreTheSlopesOfTheFormula) {
  Draw draw(test_seed(9));
  for (const bool is_bfloat16 : {false, true}) {
    const Case drawn = draw_case(draw, {2, 4, 9, 33}, {66, 5});
    const Case c = is_bfloat16 ? in_bfloat16(drawn) : drawn;
    // One number of both outputs, each with weights of its own.
    const at::Tensor by_output = draw.normal(c.inputs.v.sizes()).to(c.inputs.v.scalar_type());
    const at::Tensor by_state = draw.normal(c.initial_state.sizes());
    const auto weighted = [&](const GatedDeltaOutputs& out) {
      return (out.output * by_output.to(out.output.scalar_type())).sum(at::kDouble) +
             (out.final_state * by_state.to(out.final_state.scalar_type())).sum(at::kDouble);
    };
    testing::expect_slopes(
        [&](const auto& x) {
          return weighted(gated_delta_rule({x[0], x[1], x[2], x[3], x[4]}, c.sequences, x[5]));
        },
        [&](const auto& x) {
          return weighted(
              reference::gated_delta_rule({x[0], x[1], x[2], x[3], x[4]}, c.sequences, x[5]));
        },
        c.leaves(), at::ones({}, at::kDouble),
        4 * c.bound() + (is_bfloat16 ? kBfloat16Rounding : 0));
  }
}

TEST(GatedDelta, AGradientOfOneOutputAloneIsEnough) {
  Draw draw(test_seed(10));
  const Case c = draw_case(draw, {1, 2, 8, 8}, {70});
  const at::Tensor by_output = draw.normal(c.inputs.v.sizes()),
                   by_state = draw.normal(c.initial_state.sizes());
  const auto both = gradients_of(gated_delta_rule, c, by_output, by_state);
  std::vector<at::Tensor> sum(both.size());
  for (const bool use_output : {true, false}) {
    const at::Tensor v = c.inputs.v.detach().clone().set_requires_grad(true);
    GatedDeltaInputs inputs = c.inputs;
    inputs.v = v;
    const auto out = gated_delta_rule(inputs, c.sequences, c.initial_state);
    const auto gradient = use_output ? gradients({out.output}, {v}, {by_output})[0]
                                     : gradients({out.final_state}, {v}, {by_state})[0];
    sum[2] = sum[2].defined() ? sum[2] + gradient : gradient;
  }
  EXPECT_CLOSE(sum[2], both[2], 4 * c.bound(), 0);
}

TEST(GatedDelta, PackedEqualsAlone) {
  Draw draw(test_seed(11));
  for (int64_t i = 0; i < draws(10); ++i) {
    SCOPED_TRACE(i);
    const Case c = draw_small_case(draw);
    const auto packed = gated_delta_rule(c.inputs, c.sequences, c.initial_state);
    const at::Tensor by_output = draw.normal(c.inputs.v.sizes()),
                     by_state = draw.normal(c.initial_state.sizes());
    const auto packed_gradients = gradients_of(gated_delta_rule, c, by_output, by_state);
    for (int64_t b = 0; b < c.sequences.count(); ++b) {
      const int64_t first = c.sequences.first_token(b), length = c.sequences.length(b);
      const Case alone{narrow(c.inputs, first, length), sequences_of({length}),
                       c.initial_state.narrow(0, b, 1), c.dims};
      const auto out = gated_delta_rule(alone.inputs, alone.sequences, alone.initial_state);
      EXPECT_TRUE(same_bits(out.output, packed.output.narrow(0, first, length)));
      EXPECT_TRUE(same_bits(out.final_state, packed.final_state.narrow(0, b, 1)));
      const auto own = gradients_of(gated_delta_rule, alone, by_output.narrow(0, first, length),
                                    by_state.narrow(0, b, 1));
      for (size_t j = 0; j < 5; ++j)
        EXPECT_TRUE(same_bits(own[j], packed_gradients[j].narrow(0, first, length))) << kNames[j];
    }
  }
}

TEST(GatedDelta, NoGradientReachesAPackedNeighbour) {
  Draw draw(test_seed(12));
  const Case c = draw_case(draw, {1, 2, 8, 8}, {30, 40, 20});
  at::Tensor by_output = at::zeros_like(c.inputs.v);
  by_output.narrow(0, 30, 40).fill_(1);
  const auto grads = gradients_of(gated_delta_rule, c, by_output, at::zeros_like(c.initial_state));
  for (size_t j = 0; j < 5; ++j) {
    EXPECT_EQ(grads[j].narrow(0, 0, 30).abs().max().item<float>(), 0) << kNames[j];
    EXPECT_EQ(grads[j].narrow(0, 70, 20).abs().max().item<float>(), 0) << kNames[j];
    EXPECT_GT(grads[j].narrow(0, 30, 40).abs().max().item<float>(), 0) << kNames[j];
  }
}

TEST(GatedDelta, CutAnywhereEqualsWhole) {
  Draw draw(test_seed(13));
  for (const int64_t value_dim : {32, 33, 128}) {
    const Case c = draw_case(draw, {2, 2, 16, value_dim}, {130});
    const auto whole = gated_delta_rule(c.inputs, c.sequences);
    for (const int64_t cut : {1, 2, 63, 64, 65, 129}) {
      SCOPED_TRACE(cut);
      const auto head = gated_delta_rule(narrow(c.inputs, 0, cut), sequences_of({cut}));
      const auto tail = gated_delta_rule(narrow(c.inputs, cut, 130 - cut),
                                         sequences_of({130 - cut}), head.final_state);
      EXPECT_TRUE(same_bits(at::cat({head.output, tail.output}, 0), whole.output));
      EXPECT_TRUE(same_bits(tail.final_state, whole.final_state));
    }
  }
}

TEST(GatedDelta, CachedStepsEqualWhole) {
  Draw draw(test_seed(14));
  const Dims dims{2, 4, 17, 40};
  const Case c = draw_case(draw, dims, {9, 4, 12});
  const auto whole = gated_delta_rule(c.inputs, c.sequences);
  const at::Tensor pool =
      at::zeros({5, dims.value_heads, dims.key_dim, dims.value_dim}, at::kFloat);
  pool.select(0, 0).fill_(7);
  const std::vector<int64_t> slots{3, 1, 4};
  std::vector<int64_t> done{0, 0, 0};
  for (const int64_t wanted :
       {3, 1, 5, 2, 4}) {  // tokens a sequence and call, as far as it has them
    PackedSequences step;
    std::vector<int64_t> step_slots, rows, running;
    for (int64_t b = 0; b < 3; ++b) {
      const int64_t take = std::min(wanted, c.sequences.length(b) - done[b]);
      if (take == 0) continue;
      step.append(take), step_slots.push_back(slots[b]), running.push_back(b);
      for (int64_t t = 0; t < take; ++t) rows.push_back(c.sequences.first_token(b) + done[b] + t);
      done[b] += take;
    }
    if (rows.empty()) break;
    const at::Tensor index =
        at::from_blob(rows.data(), {static_cast<int64_t>(rows.size())}, at::kLong);
    const auto pick = [&](const at::Tensor& x) { return x.index_select(0, index); };
    const GatedDeltaInputs part{pick(c.inputs.q), pick(c.inputs.k), pick(c.inputs.v),
                                pick(c.inputs.log_decay), pick(c.inputs.beta)};
    EXPECT_TRUE(
        same_bits(gated_delta_rule_cached(part, step, pool, step_slots), pick(whole.output)));
  }
  for (int64_t b = 0; b < 3; ++b)
    EXPECT_TRUE(same_bits(pool.select(0, slots[b]), whole.final_state.select(0, b)));
  EXPECT_TRUE((pool.select(0, 0) == 7).all().item<bool>()) << "an unused slot changed";
}

TEST(GatedDelta, ThreadCountDoesNotMatter) {
  Draw draw(test_seed(15));
  const int before = at::get_num_threads();
  for (const auto& lengths : {std::vector<int64_t>{150}, std::vector<int64_t>{3, 70, 1, 8, 65}}) {
    const Case c = draw_case(draw, {1, 2, 64, 80}, lengths);
    const at::Tensor by_output = draw.normal(c.inputs.v.sizes()),
                     by_state = draw.normal(c.initial_state.sizes());
    std::vector<GatedDeltaOutputs> outputs;
    std::vector<std::vector<at::Tensor>> grads;
    for (const int threads : {1, 2, 5}) {
      at::set_num_threads(threads);
      outputs.push_back(gated_delta_rule(c.inputs, c.sequences, c.initial_state));
      grads.push_back(gradients_of(gated_delta_rule, c, by_output, by_state));
    }
    at::set_num_threads(before);
    for (size_t i = 1; i < outputs.size(); ++i) {
      EXPECT_TRUE(same_bits(outputs[i].output, outputs[0].output));
      EXPECT_TRUE(same_bits(outputs[i].final_state, outputs[0].final_state));
      for (size_t j = 0; j < grads[i].size(); ++j)
        EXPECT_TRUE(same_bits(grads[i][j], grads[0][j])) << kNames[j];
    }
  }
}

/// A drawn case whose sequences are families.
Case draw_families(Draw& draw) {
  const Dims dims = draw_small_case(draw).dims;
  const PackedSequences families = testing::draw_families(draw.engine());
  std::vector<int64_t> lengths;
  for (int64_t b = 0; b < families.count(); ++b) lengths.push_back(families.length(b));
  Case c = draw_case(draw, dims, lengths);
  c.sequences = families;
  c.initial_state.reset();
  return c;
}

GatedDeltaInputs select(const GatedDeltaInputs& in, const at::Tensor& tokens) {
  const auto of = [&](const at::Tensor& x) { return x.index_select(0, tokens); };
  return {of(in.q), of(in.k), of(in.v), of(in.log_decay), of(in.beta)};
}

TEST(GatedDelta, SharedEqualsUnshared) {
  Draw draw(test_seed(22));
  for (int64_t i = 0; i < draws(10); ++i) {
    SCOPED_TRACE(i);
    const Case c = draw_families(draw);
    const testing::Unshared whole(c.sequences);
    const auto shared = gated_delta_rule(c.inputs, c.sequences),
               copied = gated_delta_rule(select(c.inputs, whole.sources), whole.sequences);
    EXPECT_TRUE(same_bits(shared.output, copied.output.index_select(0, whole.places)));
    EXPECT_TRUE(same_bits(shared.final_state, copied.final_state));
    const auto chunked = gated_delta_rule_chunked(c.inputs, c.sequences);
    EXPECT_CLOSE(chunked.output, shared.output, 8 * c.bound(), 0);
  }
}

TEST(GatedDelta, SharedGradientsAreTheUnsharedSums) {
  Draw draw(test_seed(23));
  for (int64_t i = 0; i < draws(10); ++i) {
    SCOPED_TRACE(i);
    const Case c = draw_families(draw);
    const testing::Unshared whole(c.sequences);
    const at::Tensor by = draw.normal(c.inputs.v.sizes());
    const auto gradients_with = [&](const GatedDeltaInputs& in, const auto& output_of) {
      std::vector<at::Tensor> leaves;
      for (const at::Tensor& x : {in.q, in.k, in.v, in.log_decay, in.beta})
        leaves.push_back(x.detach().clone().set_requires_grad(true));
      const GatedDeltaInputs taken{leaves[0], leaves[1], leaves[2], leaves[3], leaves[4]};
      const at::Tensor output = output_of(taken);
      return gradients({output}, leaves, {by.to(output.scalar_type())});
    };
    const auto actual = gradients_with(c.inputs, [&](const GatedDeltaInputs& in) {
      return gated_delta_rule(in, c.sequences).output;
    });
    const auto shared = gradients_with(in_double(c.inputs), [&](const GatedDeltaInputs& in) {
      return reference::gated_delta_rule(in, c.sequences).output;
    });
    const auto expected = gradients_with(in_double(c.inputs), [&](const GatedDeltaInputs& in) {
      return reference::gated_delta_rule(select(in, whole.sources), whole.sequences)
          .output.index_select(0, whole.places);
    });
    for (size_t j = 0; j < actual.size(); ++j) {
      SCOPED_TRACE(kNames[j]);
      EXPECT_CLOSE(actual[j], expected[j], 4 * c.bound(), cancelled(c, expected, j));
      EXPECT_CLOSE(shared[j], expected[j], 1e-11, 1e-11);
    }
  }
}

TEST(GatedDeltaChunked, EqualsRecurrent) {
  Draw draw(test_seed(16));
  for (int64_t i = 0; i < draws(15); ++i) {
    SCOPED_TRACE(i);
    const Case c = draw_small_case(draw);
    const auto actual = gated_delta_rule_chunked(c.inputs, c.sequences, c.initial_state);
    const auto expected = gated_delta_rule(c.inputs, c.sequences, c.initial_state);
    // The triangular solve adds the products of 64 tokens' keys with one another: a factor of
    // sqrt(64) over the recurrence.
    EXPECT_CLOSE(actual.output, expected.output, 8 * c.bound(), 0);
    EXPECT_CLOSE(actual.final_state, expected.final_state, 8 * c.bound(), 0);
  }
}

TEST(GatedDeltaChunked, SurvivesStrongDecay) {
  Draw draw(test_seed(17));
  Case c = draw_case(draw, {1, 2, 16, 8}, {100}, /*rate_scale=*/1000);
  const auto actual = gated_delta_rule_chunked(c.inputs, c.sequences, c.initial_state);
  const auto expected =
      reference::gated_delta_rule(in_double(c.inputs), c.sequences, to_double(c.initial_state));
  // Cumulated decays of up to 1e5 lose their low bits: differences of them are off by 1e5 eps where
  // they matter.
  const double decay_error = c.inputs.log_decay.abs().sum(0).max().item<double>() * kEps;
  EXPECT_CLOSE(actual.output, expected.output, 8 * c.bound() + decay_error, 0);
}

TEST(GatedDelta, RefusesWrongInputs) {
  Draw draw(test_seed(21));
  const Case c = draw_case(draw, {2, 4, 8, 8}, {5, 3});
  GatedDeltaInputs wrong = c.inputs;
  wrong.beta = wrong.beta.to(at::kBFloat16);
  EXPECT_ERROR(gated_delta_rule(wrong, c.sequences), ShapeError, "bad-shape",
               "beta: expected float32 [8, 4]");
  wrong = c.inputs;
  wrong.v = wrong.v.narrow(1, 0, 3);
  EXPECT_ERROR(gated_delta_rule(wrong, c.sequences), ShapeError, "bad-shape",
               "Hv a multiple of Hk");
  EXPECT_ERROR(gated_delta_rule(c.inputs, c.sequences, c.initial_state.narrow(0, 0, 1)), ShapeError,
               "bad-shape", "initial_state");
  const at::Tensor pool = at::zeros({4, 4, 8, 8}, at::kFloat);
  EXPECT_ERROR(gated_delta_rule_cached(c.inputs, c.sequences, pool, std::vector<int64_t>{1, 1}),
               ShapeError, "bad-slot", "different rows");
  EXPECT_ERROR(gated_delta_rule_cached(c.inputs, c.sequences, pool, std::vector<int64_t>{1, 4}),
               ShapeError, "bad-slot", "pool of 4");
}

}  // namespace
}  // namespace lockstep::ops
