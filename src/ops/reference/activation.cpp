// SPDX-License-Identifier: Apache-2.0
#include "ops/reference/activation.h"

#include "tensor/aten.h"

namespace lockstep::ops::reference {

at::Tensor silu_mul(const at::Tensor& gate_up) {
  const int64_t width = gate_up.size(1) / 2;
  const auto gate = gate_up.narrow(1, 0, width);
  return gate * at::sigmoid(gate) * gate_up.narrow(1, width, width);
}

at::Tensor sigmoid_mul(const at::Tensor& x, const at::Tensor& gate) {
  return x * at::sigmoid(gate);
}

}  // namespace lockstep::ops::reference
