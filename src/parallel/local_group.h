// Ranks that are threads of this process, or one rank alone.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "parallel/group.h"

namespace lockstep::parallel {

/// A group of `size` ranks, each of which a thread of its own uses. A call is done when it has
/// begun.
///
/// Throws InternalError "rank-call" on every rank where the ranks' calls differ in kind, name or
/// counts, PeerError "rank-late" where a rank does not come before the deadline, and "rank-lost"
/// where one has destroyed its group; then the group is of no more use.
std::vector<std::unique_ptr<Group>> make_local_groups(int64_t size);

}  // namespace lockstep::parallel
