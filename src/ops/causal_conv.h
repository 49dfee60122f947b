// Depthwise causal convolution over packed sequences, with silu.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T packed tokens, C channels, W taps (4), B sequences.
#pragma once

#include <cstdint>
#include <span>

#include <ATen/core/Tensor.h>

#include "ops/sequences.h"

namespace lockstep::ops {

/// silu(sum_j w[:, j] x_{t-W+1+j}) within each sequence; tap W-1 is the current token, zeros before
/// the start.
///
/// Shapes: x [T, C]; weight [C, 1, W] -> [T, C] in x's dtype.
/// Numerics: float32 inside; the sum is rounded to x's dtype before silu (as transformers does),
/// taps added in order. Gradients: for x and weight. Source: transformers 5.23,
/// modeling_qwen3_5.py, causal_conv1d_fn.
at::Tensor causal_conv(const at::Tensor& x,
                       const at::Tensor& weight,
                       const PackedSequences& sequences);

/// causal_conv that continues from, and updates, the last W-1 inputs of each sequence. Bit-equal to
/// it for any split into calls. No gradients.
///
/// Shapes: pool [N, W-1, C] in x's dtype, oldest token first; slots[b] is sequence b's row of the
/// pool, each at most once.
at::Tensor causal_conv_cached(const at::Tensor& x,
                              const at::Tensor& weight,
                              const PackedSequences& sequences,
                              const at::Tensor& pool,
                              std::span<const int64_t> slots);

}  // namespace lockstep::ops
