// The mixture of experts as its formulas, in plain ATen: what ops::route and ops::experts are
// tested against.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/moe.h"  // Routing

namespace lockstep::ops::reference {

/// ops::route without its roundings, in the dtype of its input. Differentiable by autograd.
Routing route(const at::Tensor& logits, int64_t num_chosen, bool renormalize);

/// ops::experts without its roundings, in the dtype of its inputs. Differentiable by autograd.
/// Memory: a copy of K experts for each token.
at::Tensor experts(const at::Tensor& x,
                   const Routing& routing,
                   const at::Tensor& gate_up,
                   const at::Tensor& down);

}  // namespace lockstep::ops::reference
