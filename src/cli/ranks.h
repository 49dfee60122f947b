// The processes that work on one run: how they meet, and how they end.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include "cli/command.h"
#include "cli/flags.h"
#include "cli/run_error.h"

namespace lockstep::cli {

/// Meets the other ranks of the run, whom context.ranks() are from then on. Call it before anything
/// is claimed or read.
///
/// Throws what parallel::join() does, ConfigError "rank-differs" where a rank is another program or
/// has other flags, and what train::check_rank_count() throws.
void join_ranks(CommandContext& context, const FlagSet& flags);

/// Says to the others that this rank has ended well; the first one waits for all.
void leave_ranks(CommandContext& context);

/// Tells the others why this rank ends, and the launcher if it asks for it. A rank that ends by a
/// signal leaves instead, since all have got it.
///
/// Returns what this rank says to the user: of a failure of several ranks the one that was first
/// says it, and the first rank of each host.
std::string tell_failure(CommandContext& context, const RunError& error);

/// Writes an error for torchrun, which shows it as the cause. Source: torch 2.11,
/// distributed/elastic/multiprocessing/errors (ProcessFailure).
void write_error_file(const std::filesystem::path& file, const std::string& message);

}  // namespace lockstep::cli
