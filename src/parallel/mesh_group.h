// The group of ranks that are connected each with each.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>

#include "parallel/group.h"
#include "parallel/mesh.h"

namespace lockstep::parallel {

/// The group of the ranks of `mesh`.
///
/// A thread of its own makes the calls, one after another, so that a call goes on while its rank
/// computes. A call begins with a greeting from each rank to each: which call it is, and how many
/// bytes come and are expected (they come with it where they are few). Ranks that make another call
/// than rank 0, or expect another number of bytes than is sent, are an InternalError "rank-call" of
/// all ranks that see it; a transport would end the process.
///
/// A call that fails for another reason, or whose Pending is destroyed before it was waited for,
/// ends the group: its connections are closed, so that the other ranks see it at once, and every
/// later call throws PeerError "rank-lost".
std::unique_ptr<Group> make_mesh_group(std::unique_ptr<Mesh> mesh,
                                       std::chrono::milliseconds call_deadline = kCallDeadline);

}  // namespace lockstep::parallel
