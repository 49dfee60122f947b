// The gated RMS norm in plain ATen, in any dtype, differentiable by autograd.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ops/rms_norm.h"

namespace lockstep::ops::reference {

/// ops::gated_rms_norm, all in x's dtype.
at::Tensor gated_rms_norm(const at::Tensor& x,
                          const at::Tensor& z,
                          const at::Tensor& weight,
                          double eps);

}  // namespace lockstep::ops::reference
