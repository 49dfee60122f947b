// What both forms of the gated delta rule ask of their inputs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ops/gated_delta.h"

namespace lockstep::ops {

/// Throws ShapeError unless shapes and dtypes are those of GatedDeltaInputs. `initial_state` may be
/// undefined.
void check_gated_delta(const char* op,
                       const GatedDeltaInputs& inputs,
                       const PackedSequences& sequences,
                       const at::Tensor& initial_state);

}  // namespace lockstep::ops
