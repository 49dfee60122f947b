// Log-probabilities and entropies as their formulas, in plain ATen: what ops::token_logprobs is
// tested against.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace lockstep::ops::reference {

/// log softmax(h W^T / temperature)[target], in the dtype of its inputs. Differentiable by
/// autograd.
///
/// Shapes: hidden [T, D]; weight [V, D]; targets [T] int64 -> [T].
at::Tensor token_logprobs(const at::Tensor& hidden,
                          const at::Tensor& weight,
                          const at::Tensor& targets,
                          double temperature);

/// -sum p log p of the same distribution. Shapes: as above -> [T].
at::Tensor token_entropy(const at::Tensor& hidden, const at::Tensor& weight, double temperature);

}  // namespace lockstep::ops::reference
