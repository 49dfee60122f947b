// The causal convolution in plain ATen, in any dtype, differentiable by autograd.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ops/causal_conv.h"

namespace lockstep::ops::reference {

/// ops::causal_conv without its roundings: all in x's dtype.
at::Tensor causal_conv(const at::Tensor& x,
                       const at::Tensor& weight,
                       const PackedSequences& sequences);

}  // namespace lockstep::ops::reference
