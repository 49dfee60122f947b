// Mixture of experts: routing, dispatch, grouped products, combine.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T tokens, D model dim, E experts, K chosen experts, F expert width.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/linear.h"

namespace lockstep::ops {

/// The experts of each token.
struct Routing {
  /// [T, K], descending by probability, in `logits`' dtype.
  at::Tensor weights;
  /// [T, K] int64 expert ids, in the same order; ties go to the lower id.
  at::Tensor experts;
};

/// Softmax over all experts in float32, the K largest, renormalised to sum 1 if `renormalize`,
/// rounded to logits' dtype.
///
/// Shapes: logits [T, E]. Gradients: for logits, through the chosen probabilities and the softmax.
/// Source: transformers 5.23, Qwen3_5MoeTopKRouter.
Routing route(const at::Tensor& logits, int64_t num_chosen, bool renormalize);

/// One matrix of each expert of a layer: the canonical storage, and each expert's packed form.
///
/// pack() as LinearWeight::pack(): whoever changes the values calls it again.
struct ExpertBank {
  /// [E, O, I], canonical; a leaf when trained.
  at::Tensor weight;
  /// Expert e's [O, I] slice of `weight`.
  std::vector<LinearWeight> experts;

  ExpertBank() = default;
  explicit ExpertBank(at::Tensor canonical);
  /// A bank with its packed forms.
  static ExpertBank packed(at::Tensor canonical);
  void pack();
};

/// sum_k weights[t, k] down_e(silu(gate_e x) * up_e x), e = experts[t, k].
///
/// Shapes: x [T, D]; gate_up [E, 2F, D] (rows 0..F gate, F..2F up); down [E, D, F] -> [T, D] in x's
/// dtype. Numerics: one permutation sorts the T K pairs by expert (stable), grouped products over
/// it, combine adds a token's K
///   terms in order of k in float32. With packed banks a token's bits do not depend on the others
///   (docs/numerics.md).
/// Gradients: for x, weights, gate_up.weight and down.weight. Experts without a token get zeros.
at::Tensor experts(const at::Tensor& x,
                   const Routing& routing,
                   const ExpertBank& gate_up,
                   const ExpertBank& down);

}  // namespace lockstep::ops
