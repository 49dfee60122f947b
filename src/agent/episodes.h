// Trajectories that other processes keep a state for: which process has which, and what is lost.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "agent/turn_scheduler.h"

namespace lockstep::agent {

/// A trajectory as one process has it.
struct Episode {
  size_t worker = 0;
  /// Its process knows of it.
  bool is_open = false;
  /// It is over and has no reward.
  bool is_lost = false;
  /// A turn that goes on: all of its text before what is sampled next.
  std::string turn_so_far;
};

/// Threads: at() and lose_others() of different processes are safe at the same time.
class Episodes {
 public:
  explicit Episodes(size_t num_workers) : num_workers_(num_workers) {}

  /// Gives each trajectory to the process that has the fewest.
  void add(std::span<Trajectory* const> trajectories);
  bool contains(const Trajectory& trajectory) const { return episodes_.contains(trajectory.id); }
  Episode& at(const Trajectory& trajectory) { return episodes_.at(trajectory.id); }
  void erase(const Trajectory& trajectory) { episodes_.erase(trajectory.id); }
  /// The places of those that are not lost, by process.
  std::vector<std::vector<size_t>> by_worker(std::span<Trajectory* const> trajectories) const;
  /// A process has ended, and with it all that it knew. Returns how many are lost by that which
  /// were not before.
  int lose_all_of(size_t worker);
  /// Takes the rewards of those that are lost.
  void take_rewards(std::span<Trajectory* const> trajectories) const;

 private:
  size_t num_workers_;
  /// By the trajectory's id.
  std::map<std::string, Episode> episodes_;
};

/// Where the row of a trajectory stands, for errors.
std::string_view where_of(const Trajectory& trajectory);

}  // namespace lockstep::agent
