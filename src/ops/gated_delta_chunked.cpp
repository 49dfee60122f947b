// The gated delta rule by chunks of 64 tokens: the WY form, in batched float32 matrix products.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes here: C = 64 tokens of a chunk, N chunks; everything is [Hv, N, C, *].
//
// Within a chunk G_i is the sum of the log decays up to token i, and D_ij = exp(G_i - G_j) for
// i >= j, else 0:
//   A = strict_lower(diag(beta) K K^T * D)
//   (I + A) [U | W] = [diag(beta) V | diag(beta e^G) K]
// and from chunk to chunk, with the state S:
//   Vn = U - W S
//   O = diag(e^G) Q S + (Q K^T * D) Vn
//   S <- e^(G_C) S + (diag(e^(G_C - G)) K)^T Vn
// Source: Yang et al., arXiv:2412.06464; transformers 5.23, torch_chunk_gated_delta_rule.
#include <cmath>
#include <limits>

#include <ATen/core/IListRef.h>  // the list of at::cat
#include <ATen/ops/linalg_solve_triangular.h>

#include "base/op_timer.h"
#include "ops/gated_delta.h"
#include "tensor/aten.h"

namespace lockstep::ops {
namespace {

constexpr int64_t kChunk = 64;

at::Tensor l2_normalize(const at::Tensor& x) {
  return x * (x * x).sum(-1, /*keepdim=*/true).add(1e-6).rsqrt();
}

/// [L, heads, D] -> [heads * repeat, N, C, D]; tokens of zeros fill the last chunk and leave the
/// state as it is.
at::Tensor in_chunks(const at::Tensor& x_LHD, int64_t repeat) {
  const int64_t length = x_LHD.size(0), chunks = (length + kChunk - 1) / kChunk;
  at::Tensor padded = at::zeros({chunks * kChunk, x_LHD.size(1), x_LHD.size(2)}, at::kFloat);
  padded.narrow(0, 0, length).copy_(x_LHD);
  return padded.view({chunks, kChunk, x_LHD.size(1), x_LHD.size(2)})
      .permute({2, 0, 1, 3})
      .repeat_interleave(repeat, 0)
      .contiguous();
}

/// One sequence's chunks, and those terms that do not depend on the state.
struct Chunks {
  /// [Hv, N, C, Dk] normalised.
  at::Tensor q, k;
  /// [Hv, N, C, 1] G: the log decays added within a chunk.
  at::Tensor cumulated;
  /// [Hv, N, C, C] D_ij = exp(G_i - G_j) for i >= j, else 0.
  at::Tensor decay;
  /// U [Hv, N, C, Dv] and W [Hv, N, C, Dk].
  at::Tensor u, w;
};

Chunks chunks_of(const GatedDeltaInputs& inputs, int64_t first, int64_t length) {
  const auto part = [&](const at::Tensor& x) { return x.narrow(0, first, length).to(at::kFloat); };
  const int64_t repeat = inputs.v.size(1) / inputs.q.size(1);
  const double scale = 1.0 / std::sqrt(static_cast<double>(inputs.q.size(2)));
  Chunks c;
  c.q = in_chunks(l2_normalize(part(inputs.q)) * scale, repeat);
  c.k = in_chunks(l2_normalize(part(inputs.k)), repeat);
  const at::Tensor v = in_chunks(part(inputs.v), 1);
  const at::Tensor beta = in_chunks(part(inputs.beta).unsqueeze(-1), 1);
  c.cumulated = in_chunks(part(inputs.log_decay).unsqueeze(-1), 1).cumsum(2);
  // Masked before exp: above the diagonal the exponent is positive and may overflow.
  const at::Tensor above = at::ones({kChunk, kChunk}, at::kBool).tril().logical_not();
  c.decay = (c.cumulated - c.cumulated.transpose(-1, -2))
                .masked_fill(above, -std::numeric_limits<double>::infinity())
                .exp();
  const at::Tensor beta_k = c.k * beta;
  const at::Tensor lower = (at::matmul(beta_k, c.k.transpose(-1, -2)) * c.decay).tril(-1);
  const at::Tensor right = at::cat({v * beta, beta_k * c.cumulated.exp()}, -1);
  const at::Tensor solved = at::linalg_solve_triangular(lower, right, /*upper=*/false,
                                                        /*left=*/true, /*unitriangular=*/true);
  c.u = solved.narrow(-1, 0, v.size(-1));
  c.w = solved.narrow(-1, v.size(-1), c.k.size(-1));
  return c;
}

/// The carry over the chunks; returns the output [Hv, N, C, Dv] and advances `state` [Hv, Dk, Dv].
at::Tensor run_chunks(const Chunks& c, at::Tensor& state) {
  std::vector<at::Tensor> outputs;
  for (int64_t i = 0; i < c.q.size(1); ++i) {
    const at::Tensor q = c.q.select(1, i), k = c.k.select(1, i),
                     cumulated = c.cumulated.select(1, i);
    const at::Tensor total = cumulated.narrow(1, kChunk - 1, 1);
    const at::Tensor v_new = c.u.select(1, i) - at::matmul(c.w.select(1, i), state);
    const at::Tensor scores = at::matmul(q, k.transpose(-1, -2)) * c.decay.select(1, i);
    outputs.push_back(at::matmul(q * cumulated.exp(), state) + at::matmul(scores, v_new));
    const at::Tensor carried = k * (total - cumulated).exp();
    state = state * total.exp() + at::matmul(carried.transpose(-1, -2), v_new);
  }
  return at::stack(outputs, 1);
}

}  // namespace

GatedDeltaOutputs gated_delta_rule_chunked(const GatedDeltaInputs& inputs,
                                           const PackedSequences& sequences,
                                           const at::Tensor& initial_state) {
  const OpTimer timer("gated_delta_rule_chunked");
  check_gated_delta("gated_delta_rule_chunked", inputs, sequences, initial_state);
  const at::NoGradGuard no_grad;
  const int64_t heads = inputs.v.size(1), value_dim = inputs.v.size(2);
  std::vector<at::Tensor> outputs, states;
  for (int64_t b = 0; b < sequences.count(); ++b) {
    const int64_t first = sequences.first_token(b), length = sequences.length(b);
    at::Tensor state = at::zeros({heads, inputs.q.size(2), value_dim}, at::kFloat);
    if (initial_state.defined()) state = initial_state.select(0, b);
    if (const int64_t parent = sequences.parent(b); parent != PackedSequences::kNoParent)
      state = states[static_cast<size_t>(parent)];
    const at::Tensor output = run_chunks(chunks_of(inputs, first, length), state);
    outputs.push_back(
        output.permute({1, 2, 0, 3}).reshape({-1, heads, value_dim}).narrow(0, 0, length));
    states.push_back(state);
  }
  return {at::cat(outputs, 0).to(inputs.v.scalar_type()), at::stack(states, 0)};
}

}  // namespace lockstep::ops
