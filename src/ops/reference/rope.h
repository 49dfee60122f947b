// The rotary embedding's formula in plain ATen, in the dtype of its inputs: what the kernels are
// tested against.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace lockstep::ops::reference {

/// ops::rope_table in float64: the exact angles.
///
/// Shapes: positions [T] -> [T, R]: R/2 cosines, then R/2 sines.
at::Tensor rope_table(const at::Tensor& positions, int64_t rotary_dim, double theta);

/// ops::apply_rope without its roundings. Differentiable by autograd.
///
/// Shapes: x [T, H, Dh]; table [T, R] in x's dtype -> [T, H, Dh].
at::Tensor apply_rope(const at::Tensor& x, const at::Tensor& table);

}  // namespace lockstep::ops::reference
