// How the ranks of a run find each other.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "parallel/group.h"
#include "parallel/launch_info.h"
#include "parallel/monitor.h"
#include "parallel/recorder.h"
#include "parallel/store.h"

namespace lockstep::parallel {

struct JoinOptions {
  /// How long the ranks wait until all have come.
  std::chrono::milliseconds deadline = std::chrono::minutes(5);
  /// How long a call of the world may take where it does not say so itself.
  std::chrono::milliseconds call_deadline = kCallDeadline;
  /// What the ranks of this run alone know, so that no other process joins them; "": nothing.
  std::string token;
  MonitorOptions monitor = {};
};

/// The ranks of a run, as one of them holds them.
struct Peers {
  /// Keys that this attempt of this run alone sees. Where this rank listens for the others, the
  /// store ends with it.
  std::unique_ptr<Store> store;
  /// Told by the caller what this rank does ("joining" until then), and by the world of its calls.
  std::unique_ptr<Recorder> recorder;
  std::unique_ptr<Group> world;
  /// Told by the caller how this rank ends.
  std::unique_ptr<Monitor> monitor;
};

/// Returns when all ranks have come. A process that is alone opens no socket. A rank that has come
/// and is gone, or fails here, ends the others as it does later.
///
/// Throws PeerError "rank-late" with the ranks that have not come within the deadline, "rank-taken"
/// when this rank is there already; InterruptedError after a signal; what make_c10d_store throws.
Peers join(const LaunchInfo& launch, const JoinOptions& options = {});

}  // namespace lockstep::parallel
