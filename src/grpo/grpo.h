// Group relative policy optimisation: the loop that samples, rewards and learns.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "grpo/batch_plan.h"

namespace lockstep::grpo {

/// Trains on the rows and writes the run directory.
/// Throws ConfigError, FormatError (nothing is written then), IoError, InterruptedError.
void run_grpo(const GrpoRunOptions& options, const RunContext& context);

}  // namespace lockstep::grpo
