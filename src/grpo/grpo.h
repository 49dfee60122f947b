// Group relative policy optimisation: the loop that samples, rewards and learns.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "grpo/batch_plan.h"

namespace lockstep::grpo {

/// One of the runs of a command.
struct GrpoRunSpec {
  GrpoRunOptions options;
  RunContext context;
};

/// Trains on the rows of each run in turns (turns.h) and writes their run directories.
/// Throws ConfigError, FormatError (nothing is written then), IoError, InterruptedError.
void run_grpo(std::span<const GrpoRunSpec> runs);

}  // namespace lockstep::grpo
