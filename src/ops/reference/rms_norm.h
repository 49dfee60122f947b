// The RMS norm's formula in plain ATen, in the dtype of its inputs: what the kernels are tested
// against.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/rms_norm.h"  // NormKind

namespace lockstep::ops::reference {

/// ops::rms_norm without its roundings. Differentiable by autograd, any float dtype.
///
/// Shapes: x [..., D]; weight [D] -> [..., D].
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, NormKind kind);

}  // namespace lockstep::ops::reference
