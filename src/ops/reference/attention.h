// Attention's formula in plain ATen, in the dtype of its inputs: what the kernels are tested
// against.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/attention.h"  // PagedBatch
#include "ops/sequences.h"

namespace lockstep::ops::reference {

/// ops::causal_attention with whole score matrices. Differentiable by autograd.
///
/// Shapes: q [T, H, Dh]; k, v [T, Hkv, Dh] -> [T, H, Dh].
at::Tensor causal_attention(const at::Tensor& q,
                            const at::Tensor& k,
                            const at::Tensor& v,
                            const PackedSequences& sequences,
                            double scale);

/// ops::paged_attention over keys and values gathered from their pages.
///
/// Shapes: q [T, H, Dh]; k_cache, v_cache [P, Hkv, Q, Dh] -> [T, H, Dh].
at::Tensor paged_attention(const at::Tensor& q,
                           const at::Tensor& k_cache,
                           const at::Tensor& v_cache,
                           const PagedBatch& batch,
                           double scale);

}  // namespace lockstep::ops::reference
