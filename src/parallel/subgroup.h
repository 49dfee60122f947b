// Some ranks of a group, as a group of their own.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "parallel/group.h"

namespace lockstep::parallel {

/// The ranks `members` of `all`, which ascend; the caller's is one of them.
///
/// The ranks of `all` are in one such part each, and the calls of parts are calls of all: every
/// rank makes the same ones at the same time, each in its own part. So parts need no connections of
/// their own, and one that fails ends all. `all` must outlive it.
std::unique_ptr<Group> make_subgroup(Group& all, std::vector<int64_t> members);

}  // namespace lockstep::parallel
