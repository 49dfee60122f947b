// Which numbers the ops take: those that production has. What float64 should give is said by
// ops/reference, which no op runs.
// SPDX-License-Identifier: Apache-2.0
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "ops/activation.h"
#include "ops/adamw.h"
#include "ops/attention.h"
#include "ops/causal_conv.h"
#include "ops/gated_delta.h"
#include "ops/linear.h"
#include "ops/moe.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/token_logprob.h"
#include "tensor/aten.h"
#include "tests/support/expect_error.h"

namespace lockstep::ops {
namespace {

struct Op {
  std::string name;
  std::function<void(at::ScalarType)> run;
};

PackedSequences one_sequence(int64_t tokens) {
  PackedSequences sequences;
  sequences.append(tokens);
  return sequences;
}

/// Two tokens in one page.
PagedBatch paged_batch() { return {one_sequence(2), {2}, {0}, 1}; }

const std::vector<int64_t> kFirstSlot{0};

GatedDeltaInputs delta_inputs(at::ScalarType dtype) {
  const at::Tensor x = at::zeros({2, 1, 16}, dtype), gate = at::zeros({2, 1});
  return {x, x, x, gate, gate};
}

at::Tensor rows(at::ScalarType dtype) { return at::zeros({2, 4}, dtype); }
at::Tensor gain(at::ScalarType dtype) { return at::ones({4}, dtype); }
at::Tensor heads(at::ScalarType dtype) { return at::zeros({2, 1, 16}, dtype); }

std::vector<Op> ops_of_rows() {
  return {
      {"linear",
       [](auto dtype) {
         LinearWeight weight(rows(dtype));
         weight.pack();
         linear(rows(dtype), weight);
       }},
      {"rms_norm", [](auto dtype) { rms_norm(rows(dtype), gain(dtype), 1e-6, NormKind::kPlain); }},
      {"add_rms_norm",
       [](auto dtype) {
         add_rms_norm(rows(dtype), rows(dtype), gain(dtype), 1e-6, NormKind::kPlain);
       }},
      {"gated_rms_norm",
       [](auto dtype) { gated_rms_norm(rows(dtype), rows(dtype), gain(dtype), 1e-6); }},
      {"silu_mul", [](auto dtype) { silu_mul(rows(dtype)); }},
      {"sigmoid_mul", [](auto dtype) { sigmoid_mul(rows(dtype), rows(dtype)); }},
      {"route", [](auto dtype) { route(rows(dtype), 2, true); }},
      {"experts",
       [](auto dtype) {
         experts(rows(dtype), {at::ones({2, 1}, dtype), at::zeros({2, 1}, at::kLong)},
                 ExpertBank::packed(at::zeros({1, 8, 4}, dtype)),
                 ExpertBank::packed(at::zeros({1, 4, 4}, dtype)));
       }},
      {"token_logprobs",
       [](auto dtype) {
         VocabularyHead head(rows(dtype));
         head.pack();
         token_logprobs(rows(dtype), head, at::zeros({2}, at::kLong), 1.0, false);
       }},
      {"adamw_step",
       [](auto dtype) {
         const at::Tensor zero = at::zeros({2, 4});
         adamw_step(rows(dtype), zero, zero.clone(), zero.clone(), rows(dtype), {.step = 1});
       }},
      {"sum_of_squares", [](auto dtype) { sum_of_squares(rows(dtype)); }},
  };
}

std::vector<Op> ops_of_sequences() {
  return {
      {"apply_rope",
       [](auto dtype) { apply_rope(heads(dtype), rope_table(at::arange(2, at::kLong), 8, 1e4)); }},
      {"causal_attention",
       [](auto dtype) {
         causal_attention(heads(dtype), heads(dtype), heads(dtype), one_sequence(2), 1.0);
       }},
      {"paged_attention",
       [](auto dtype) {
         const at::Tensor cache = at::zeros({1, 1, 16, 16}, dtype);
         paged_attention(heads(dtype), cache, cache, paged_batch(), 1.0);
       }},
      {"causal_conv",
       [](auto dtype) {
         causal_conv(rows(dtype), at::zeros({4, 1, 3}, dtype), one_sequence(2));
       }},
      {"causal_conv_cached",
       [](auto dtype) {
         causal_conv_cached(rows(dtype), at::zeros({4, 1, 3}, dtype), one_sequence(2),
                            at::zeros({1, 2, 4}, dtype), kFirstSlot);
       }},
      {"gated_delta_gates",
       [](auto dtype) { gated_delta_gates(rows(dtype), rows(dtype), gain(dtype), gain(dtype)); }},
      {"gated_delta_rule",
       [](auto dtype) { gated_delta_rule(delta_inputs(dtype), one_sequence(2)); }},
      {"gated_delta_rule_chunked",
       [](auto dtype) { gated_delta_rule_chunked(delta_inputs(dtype), one_sequence(2)); }},
      {"gated_delta_rule_cached",
       [](auto dtype) {
         gated_delta_rule_cached(delta_inputs(dtype), one_sequence(2), at::zeros({1, 1, 16, 16}),
                                 kFirstSlot);
       }},
  };
}

/// Every op that reads activations or weights.
std::vector<Op> all_ops() {
  std::vector<Op> all = ops_of_rows();
  for (Op& op : ops_of_sequences()) all.push_back(std::move(op));
  return all;
}

TEST(Dtypes, EveryOpTakesFloat32AndBFloat16) {
  for (const Op& op : all_ops())
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
      EXPECT_NO_THROW(op.run(dtype)) << op.name << " of " << at::toString(dtype);
}

TEST(Dtypes, NoOpTakesAnotherOne) {
  for (const Op& op : all_ops())
    for (const at::ScalarType dtype : {at::kDouble, at::kHalf}) {
      SCOPED_TRACE(op.name);
      EXPECT_ERROR(op.run(dtype), ShapeError, "bad-dtype",
                   std::string("expected float32 or bfloat16, got ") + at::toString(dtype));
    }
}

}  // namespace
}  // namespace lockstep::ops
