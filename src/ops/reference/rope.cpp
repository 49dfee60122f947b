// SPDX-License-Identifier: Apache-2.0
#include "ops/reference/rope.h"

#include <ATen/core/IListRef.h>  // the list of at::cat

#include "tensor/aten.h"

namespace lockstep::ops::reference {

at::Tensor rope_table(const at::Tensor& positions, int64_t rotary_dim, double theta) {
  const auto exponents = at::arange(0, rotary_dim, 2, at::kDouble) / rotary_dim;
  const auto angles = at::outer(positions.to(at::kDouble), at::pow(theta, exponents).reciprocal());
  return at::cat({angles.cos(), angles.sin()}, -1);
}

at::Tensor apply_rope(const at::Tensor& x, const at::Tensor& table) {
  const int64_t half = table.size(1) / 2;
  const auto cosines = table.narrow(1, 0, half).unsqueeze(1);
  const auto sines = table.narrow(1, half, half).unsqueeze(1);
  const auto first = x.narrow(2, 0, half);
  const auto second = x.narrow(2, half, half);
  const auto rest = x.narrow(2, 2 * half, x.size(2) - 2 * half);
  return at::cat({first * cosines - second * sines, second * cosines + first * sines, rest}, 2);
}

}  // namespace lockstep::ops::reference
