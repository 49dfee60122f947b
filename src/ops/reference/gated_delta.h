// The gated delta rule in plain ATen, token by token: any dtype, differentiable by autograd. The
// truth of the tests.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ops/gated_delta.h"

namespace lockstep::ops::reference {

/// ops::gated_delta_rule in the dtype of the inputs, all of which must have the same.
GatedDeltaOutputs gated_delta_rule(const GatedDeltaInputs& inputs,
                                   const PackedSequences& sequences,
                                   const at::Tensor& initial_state = {});

/// ops::gated_delta_gates in the dtype of the inputs.
GatedDeltaGates gated_delta_gates(const at::Tensor& a,
                                  const at::Tensor& b,
                                  const at::Tensor& A_log,
                                  const at::Tensor& dt_bias);

}  // namespace lockstep::ops::reference
