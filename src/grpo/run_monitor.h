// Knows what a run does at the moment and how long each part of it takes, for the terminal and for
// the metrics time/…. It needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>

#include "grpo/metrics.h"

namespace lockstep::grpo {

/// The parts of a run, in the order of a step.
enum class Phase : int { kSync, kRollout, kReward, kScore, kTrain, kEval, kSave };
inline constexpr int kNumPhases = 7;
/// The name of a phase in its metric: "rollout" for time/rollout.
const char* phase_name(Phase phase);
/// The name of a phase for a person: "sampling".
const char* phase_doing(Phase phase);
/// The same where there is little room: "sample".
const char* phase_brief(Phase phase);

/// What a run does at the moment.
struct RunStatus {
  /// How many optimizer steps are done, and how many there are.
  int64_t step = 0, max_steps = 0;
  Phase phase = Phase::kRollout;
  /// No phase lasts: the last one has ended, and the next one has not begun.
  bool is_resting = true;
  /// Sequences of the phase that are through, and all; 0 of 0 where they are not counted.
  int64_t done = 0, total = 0;
  /// How many tokens the phase has worked on, and how many there are; while sampling, how many
  /// there can be at most.
  int64_t tokens = 0, total_tokens = 0;
  /// How long the phase has lasted.
  double seconds = 0;
  /// The time until the run ends, by the steps so far; unset until the first one is done.
  std::optional<double> seconds_left;
};

/// Keeps the time of a run. Not thread-safe.
///
///   begin ─▶ (enter kSync ─▶ kRollout ─▶ kReward ─▶ kScore ─▶ kTrain ─▶ end_step) ─▶ enter kEval,
///   kSave ─▶ rest ─▶ …; each enter ends the phase before it.
class RunMonitor {
 public:
  /// A clock, in seconds.
  using Clock = std::function<double()>;
  using Watcher = std::function<void(const RunStatus&)>;
  /// `watcher` is called at every change.
  explicit RunMonitor(Watcher watcher, Clock clock = steady_seconds);

  /// The clock of std::chrono::steady_clock.
  static double steady_seconds();

  /// Says that the run begins now, with `first_step` steps done before.
  void begin(int64_t max_steps, int64_t first_step);
  /// Seconds since begin().
  double seconds() const { return clock_() - begun_; }
  /// The seconds until the run ends, by the steps so far; unset until the first one is done.
  std::optional<double> seconds_left() const;

  /// Begins a phase, which works on `sequences` and `tokens`; while sampling, `tokens` is how many
  /// it can be at most. With 0 they are not counted.
  void enter(Phase phase, int64_t sequences = 0, int64_t tokens = 0);
  /// Says how far the phase is.
  void progress(int64_t done, int64_t tokens);
  /// The same as a share of its sequences and tokens.
  void progress_share(double share);
  /// Says that the optimizer step is done.
  void end_step();
  /// Ends the phase without beginning another.
  void rest();

  /// Adds the metric time/NAME: the phase's seconds since the last call for it.
  void take_time(Phase phase, Metrics& metrics);
  /// The seconds of the phase since begin().
  double total_seconds(Phase phase) const;

 private:
  void end_phase();
  void tell();

  Watcher watcher_;
  Clock clock_;
  RunStatus status_;
  int64_t first_step_ = 0;
  double begun_ = 0, phase_begun_ = 0, step_ended_ = 0;
  std::array<double, kNumPhases> total_{}, taken_{};
};

}  // namespace lockstep::grpo
