// Gated activations.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace lockstep::ops {

/// silu(gate) * up (SwiGLU's product), gate and up side by side in one tensor.
///
/// Shapes: gate_up [T, 2F]: columns 0..F gate, F..2F up -> [T, F], same dtype.
/// Numerics: silu in float32, rounded to the dtype, then the product, rounded (transformers'
/// order). Gradients: yes.
at::Tensor silu_mul(const at::Tensor& gate_up);

/// x * sigmoid(gate), elementwise: Qwen3.5's attention output gate, and (gate [T, 1]) the shared
/// expert's.
///
/// Shapes: x [T, D]; gate [T, D] or [T, 1]. Numerics: sigmoid in float32 rounded to the dtype, then
/// the product. Gradients: for both.
at::Tensor sigmoid_mul(const at::Tensor& x, const at::Tensor& gate);

}  // namespace lockstep::ops
