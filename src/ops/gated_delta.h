// The gated delta rule (Gated DeltaNet) over packed sequences.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T packed tokens, Hk key heads, Hv value heads (Hv a multiple of Hk), Dk, Dv head dims, B
// sequences, N slots.
#pragma once

#include <cstdint>
#include <span>

#include <ATen/core/Tensor.h>

#include "ops/sequences.h"

namespace lockstep::ops {

/// What the gated delta rule reads.
struct GatedDeltaInputs {
  /// [T, Hk, Dk], raw: normalised and scaled by Dk^-1/2 inside.
  at::Tensor q;
  /// [T, Hk, Dk], raw: normalised inside.
  at::Tensor k;
  /// [T, Hv, Dv]
  at::Tensor v;
  /// [T, Hv] float32, natural logarithm, <= 0.
  at::Tensor log_decay;
  /// [T, Hv] float32, in (0, 1).
  at::Tensor beta;
};

struct GatedDeltaOutputs {
  /// [T, Hv, Dv] in v's dtype.
  at::Tensor output;
  /// [B, Hv, Dk, Dv] float32.
  at::Tensor final_state;
};

/// The recurrence, token by token, for each sequence and value head (value head j reads key head j
/// / (Hv / Hk)):
///
///   q^ = q / sqrt(sum q^2 + 1e-6) Dk^-1/2,  k^ = k / sqrt(sum k^2 + 1e-6)
///   S <- exp(g) S;  S <- S + k^ (beta (v - S^T k^))^T;  o = S^T q^
///
/// `initial_state` [B, Hv, Dk, Dv] float32, or undefined for zeros.
/// Numerics: float32 inside; o rounded once. A sequence's bits do not depend on what it is packed
/// with, on threads, or on
///   where it is cut into calls that pass the state on.
/// Gradients: for all five inputs and the initial state, from saved states every
/// kGatedDeltaCheckpoint tokens. Source: Yang et al., arXiv:2412.06464; transformers 5.23
/// torch_recurrent_gated_delta_rule.
GatedDeltaOutputs gated_delta_rule(const GatedDeltaInputs& inputs,
                                   const PackedSequences& sequences,
                                   const at::Tensor& initial_state = {});

/// The same values within rounding, by chunks of 64 tokens (WY form): faster for long prompts, used
/// only where exactness is not asked for. No gradients; final_state as above. Source:
/// arXiv:2412.06464, section 3.
GatedDeltaOutputs gated_delta_rule_chunked(const GatedDeltaInputs& inputs,
                                           const PackedSequences& sequences,
                                           const at::Tensor& initial_state = {});

/// gated_delta_rule that continues from, and updates in place, the states of a pool. No gradients.
///
/// Shapes: pool [N, Hv, Dk, Dv] float32; slots[b] is sequence b's row, each at most once -> [T, Hv,
/// Dv].
at::Tensor gated_delta_rule_cached(const GatedDeltaInputs& inputs,
                                   const PackedSequences& sequences,
                                   const at::Tensor& pool,
                                   std::span<const int64_t> slots);

/// log_decay = -exp(A_log) softplus(a + dt_bias), beta = sigmoid(b), both float32.
///
/// Shapes: a, b [T, Hv] in the model's dtype; A_log, dt_bias [Hv], any float dtype -> two tensors
/// [T, Hv] float32. Numerics: softplus(x) = x for x > 20 (torch's threshold). Gradients: for all
/// four.
struct GatedDeltaGates {
  at::Tensor log_decay;
  at::Tensor beta;
};
GatedDeltaGates gated_delta_gates(const at::Tensor& a,
                                  const at::Tensor& b,
                                  const at::Tensor& A_log,
                                  const at::Tensor& dt_bias);

/// What both forms of the rule ask of their inputs: throws ShapeError unless shapes and dtypes are
/// those of GatedDeltaInputs. `initial_state` may be undefined.
void check_gated_delta(const char* op,
                       const GatedDeltaInputs& inputs,
                       const PackedSequences& sequences,
                       const at::Tensor& initial_state);

}  // namespace lockstep::ops
