// What a rank has done last: its phase, and its calls of groups.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "parallel/group.h"

namespace lockstep::parallel {

/// A call that a rank has begun.
struct RecordedCall {
  /// "world"
  std::string group;
  /// Which call of the group it is, from 1; all ranks count alike.
  uint64_t sequence = 0;
  /// "all-gather", and the name of the call.
  std::string operation, name;
  /// What this rank sends and receives of others.
  int64_t bytes = 0;
  /// What the rank did, and in which step.
  std::string phase;
  int64_t step = 0;
  /// Seconds since 1970 at which it began.
  double begun = 0;
  /// Whether its rank has waited for it until its end.
  bool is_done = false;

  /// "all-gather #812 "gradients of layer 17"", with the group where it is not the world.
  std::string text() const;
};

/// How far a rank has come.
struct RankProgress {
  std::string phase;
  int64_t step = 0;
  /// Of all groups.
  uint64_t num_calls = 0;
  /// The last that it has begun.
  std::optional<RecordedCall> last_call;
};

/// Keeps the phase of a rank, and its last calls. Threads: any.
class Recorder {
 public:
  /// It keeps `room` calls.
  explicit Recorder(size_t room = 4096) : room_(room) {}

  /// Says what the rank does from now on: "sampling", step 12.
  void enter(std::string phase, int64_t step);
  /// Adds a call, with the current phase and time, and returns its number.
  uint64_t begin(RecordedCall call);
  void end(uint64_t number);

  RankProgress progress() const;
  /// The last calls, the oldest first.
  std::vector<RecordedCall> calls() const;

 private:
  const size_t room_;
  mutable std::mutex mutex_;
  std::string phase_;
  int64_t step_ = 0;
  uint64_t num_calls_ = 0;
  // A ring: call n is at n % room_.
  std::vector<RecordedCall> calls_;
};

/// `group`, whose calls are recorded under `name`. The recorder outlives it.
std::unique_ptr<Group> make_recorded_group(std::unique_ptr<Group> group,
                                           std::string name,
                                           Recorder& recorder);

}  // namespace lockstep::parallel
