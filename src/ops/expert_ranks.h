// Experts that ranks share out: the rows of a layer's tokens go to the ranks that have their
// experts, and come back. Internal to ops/.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include <ATen/core/Tensor.h>

#include "ops/moe.h"

namespace lockstep::ops {

/// experts() with ranks. The arguments are checked.
at::Tensor experts_over_ranks(const at::Tensor& x,
                              const Routing& routing,
                              const ExpertBank& gate_up,
                              const ExpertBank& down,
                              std::span<const ExpertTerm> terms,
                              ExpertRanks& ranks);

}  // namespace lockstep::ops
