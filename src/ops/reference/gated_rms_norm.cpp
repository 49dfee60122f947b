// SPDX-License-Identifier: Apache-2.0
#include "ops/reference/gated_rms_norm.h"

#include "tensor/aten.h"

namespace lockstep::ops::reference {

at::Tensor gated_rms_norm(const at::Tensor& x,
                          const at::Tensor& z,
                          const at::Tensor& weight,
                          double eps) {
  const at::Tensor rstd = (x * x).mean(-1, /*keepdim=*/true).add(eps).rsqrt();
  return x * rstd * weight * (z * z.sigmoid());
}

}  // namespace lockstep::ops::reference
