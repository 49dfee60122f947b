// Numbers that would divide, where a run's batches do not.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "grpo/batch_plan.h"

namespace lockstep::grpo {

/// Flags to paste, each text of which gives a plan: for one of those that cut batches, the number
/// nearest to the present one that does, or for two of them where no single one helps. At most two
/// texts, the least change first. For options that give no plan.
std::vector<std::string> batch_fixes(const GrpoRunOptions& options, int64_t num_rows);

}  // namespace lockstep::grpo
