// SPDX-License-Identifier: Apache-2.0
#include "ops/reference/rms_norm.h"

#include "tensor/aten.h"

namespace lockstep::ops::reference {

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, NormKind kind) {
  const auto n = x * (x.pow(2).mean(-1, /*keepdim=*/true) + eps).rsqrt();
  return kind == NormKind::kOnePlus ? n * (weight + 1) : n * weight;
}

}  // namespace lockstep::ops::reference
