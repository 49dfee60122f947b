// SPDX-License-Identifier: Apache-2.0
#include "ops/reference/adamw.h"

#include <cmath>

#include "tensor/aten.h"

namespace lockstep::ops::reference {

AdamWParameter adamw_step(const AdamWParameter& before,
                          const at::Tensor& gradient,
                          const AdamWSettings& s) {
  const auto step = static_cast<double>(s.step);
  const at::Tensor g = gradient * s.gradient_scale;
  AdamWParameter after;
  after.exp_avg = before.exp_avg * s.beta1 + g * (1 - s.beta1);
  after.exp_avg_sq = before.exp_avg_sq * s.beta2 + g * g * (1 - s.beta2);
  const at::Tensor m = after.exp_avg / (1 - std::pow(s.beta1, step));
  const at::Tensor v = after.exp_avg_sq / (1 - std::pow(s.beta2, step));
  after.value = before.value * (1 - s.learning_rate * s.weight_decay) -
                s.learning_rate * m / (v.sqrt() + s.eps);
  return after;
}

}  // namespace lockstep::ops::reference
