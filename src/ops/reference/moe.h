// The mixture of experts as its formulas, in plain ATen: what ops::route and ops::experts are
// tested against.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/moe.h"  // Routing

namespace lockstep::ops::reference {

/// ops::route without its roundings, in the dtype of its input. Differentiable by autograd.
Routing route(const at::Tensor& logits,
              int64_t num_chosen,
              bool renormalize,
              const GivenExperts& given = {});

/// What an adapter adds to one of the experts' products.
struct ExpertPair {
  /// [E, R, I] and [E, O, R]; undefined: nothing.
  at::Tensor a, b;
  double scale = 1;
  /// [K, T, I], what the product's input is multiplied with before A: 0 where it is dropped, or
  /// where the token has no adapter.
  at::Tensor factors;
};

/// ops::experts without its roundings, in the dtype of its inputs. Differentiable by autograd.
/// Memory: a copy of K experts for each token.
at::Tensor experts(const at::Tensor& x,
                   const Routing& routing,
                   const at::Tensor& gate_up,
                   const at::Tensor& down,
                   const ExpertPair& gate_up_pair = {},
                   const ExpertPair& down_pair = {});

}  // namespace lockstep::ops::reference
