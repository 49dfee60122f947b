// The group of processes: torch's c10d with Gloo carries their messages.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "parallel/group.h"
#include "parallel/store.h"

namespace lockstep::parallel {

/// A rank's place in a group that is being made.
struct C10dPlace {
  int64_t rank = 0, size = 1;
  /// The address of this host under which the other ranks reach it: "127.0.0.1", "10.0.0.3".
  std::string address;
  /// How long the ranks may take to connect.
  std::chrono::milliseconds deadline = std::chrono::minutes(5);
  /// How long a call of the group may take where it does not say so itself.
  std::chrono::milliseconds call_deadline = kCallDeadline;
};

/// Connects this rank to all others through `store`, whose keys are this group's alone; it is not
/// needed any more afterwards. The sockets close when a program is started by this process.
///
/// A write to a connection that is gone becomes an error in place of SIGPIPE, for the process.
/// Throws PeerError "rank-late" when a rank does not come within the deadline.
std::unique_ptr<Group> make_c10d_group(std::unique_ptr<Store> store, const C10dPlace& place);

}  // namespace lockstep::parallel
