// The gated activations' formulas in plain ATen, in the dtype of their inputs: what the kernels are
// tested against.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace lockstep::ops::reference {

/// ops::silu_mul without its roundings. Shapes: gate_up [T, 2F] -> [T, F].
at::Tensor silu_mul(const at::Tensor& gate_up);

/// ops::sigmoid_mul without its roundings. Shapes: x [T, D]; gate [T, D] or [T, 1] -> [T, D].
at::Tensor sigmoid_mul(const at::Tensor& x, const at::Tensor& gate);

}  // namespace lockstep::ops::reference
