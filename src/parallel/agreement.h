// Work that each rank does by itself, and of whose end all know.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "parallel/group.h"

namespace lockstep::parallel {

/// Does `work`, in which ranks do not meet, and gives each rank what it has returned on all of
/// them, by rank. Everybody comes to the end of it, an error or not, so that nobody waits for ranks
/// that are gone.
///
/// Throws on every rank where `work` has thrown on any: on that rank what it was; on the others
/// InterruptedError "interrupted" where that was one, else PeerError "rank-failed", which names the
/// first of these ranks and says what it has thrown.
std::vector<std::string> gather_results(Group& ranks,
                                        const Call& call,
                                        const std::function<std::string()>& work);

/// gather_results() of work that returns nothing.
void do_together(Group& ranks, const Call& call, const std::function<void()>& work);

/// The bytes that `work` returns on the first rank, which alone does it. Throws as
/// gather_results().
std::string do_on_first(Group& ranks, const Call& call, const std::function<std::string()>& work);

/// The least of the ranks' numbers, for decisions that all must make alike.
double least_of(Group& ranks, double own, const Call& call);

/// Throws InterruptedError on all ranks once a signal has come to any of them, as
/// lockstep::throw_if_interrupted() does for one process alone. Ranks meet.
void throw_if_any_interrupted(Group& ranks);

}  // namespace lockstep::parallel
