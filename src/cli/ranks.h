// The processes that work on one run: how they meet.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cli/command.h"
#include "cli/flags.h"

namespace lockstep::cli {

/// Meets the other ranks of the run, whom context.ranks() are from then on. Call it before anything
/// is claimed or read.
///
/// Throws what parallel::join() does, and ConfigError "rank-differs" where a rank is another
/// program or has other flags.
void join_ranks(CommandContext& context, const FlagSet& flags);

}  // namespace lockstep::cli
