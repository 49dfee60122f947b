// Rotary position embedding.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T packed tokens, H heads, Dh head dim, R rotary dim (even, <= Dh).
#pragma once

#include <ATen/core/Tensor.h>

namespace lockstep::ops {

/// cos and sin of position * inv_freq_j, j < R/2, inv_freq_j = theta^(-2j/R).
///
/// Shapes: positions [T] int64 -> [T, R] float32: R/2 cosines, then R/2 sines.
/// Numerics: angles in float32 as transformers computes them (float32 inv_freq, float32 product).
at::Tensor rope_table(const at::Tensor& positions, int64_t rotary_dim, double theta);

/// Rotates the first R dimensions of each head: (x_j, x_{j+R/2}) -> (x_j c - x_{j+R/2} s, x_{j+R/2}
/// c + x_j s).
///
/// Shapes: x [T, H, Dh]; table [T, R] of rope_table. Dimensions R.. pass through.
/// Numerics: the table is rounded to x's dtype first (as transformers does); products in float32,
/// one rounding. Gradients: the rotation by the negative angle. With text only, interleaved M-RoPE
/// (mrope_section) equals this: its three position streams are the same.
at::Tensor apply_rope(const at::Tensor& x, const at::Tensor& table);

}  // namespace lockstep::ops
