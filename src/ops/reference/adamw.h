// AdamW as its formula, in plain ATen: what ops::adamw_step is tested against.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/adamw.h"  // AdamWSettings

namespace lockstep::ops::reference {

/// A parameter and its moments, all of one shape and dtype.
struct AdamWParameter {
  at::Tensor value, exp_avg, exp_avg_sq;
};

/// The parameter after one step, in the dtype of its tensors (float64 for tests). Source:
/// torch/optim/adamw.py 2.11.
AdamWParameter adamw_step(const AdamWParameter& before,
                          const at::Tensor& gradient,
                          const AdamWSettings& settings);

}  // namespace lockstep::ops::reference
