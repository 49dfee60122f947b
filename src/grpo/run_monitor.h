// What a run does at the moment and how long each part of it takes: for the terminal and for the
// metrics time/…. No libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>

#include "grpo/metrics.h"

namespace lockstep::grpo {

/// The parts of a run, in the order of a step.
enum class Phase : int { kRollout, kReward, kScore, kTrain, kEval, kSave };
inline constexpr int kNumPhases = 6;
/// "rollout": its metric is time/rollout.
const char* phase_name(Phase phase);
/// "sampling": what a person reads.
const char* phase_doing(Phase phase);

/// What a run does at the moment.
struct RunStatus {
  /// Optimizer steps done, and all.
  int64_t step = 0, max_steps = 0;
  Phase phase = Phase::kRollout;
  /// No phase lasts: the last one has ended, and the next one has not begun.
  bool is_resting = true;
  /// Sequences of the phase that are through, and all; 0 of 0 where they are not counted.
  int64_t done = 0, total = 0;
  /// Tokens that the phase has worked on so far, and all, or where it samples the most.
  int64_t tokens = 0, total_tokens = 0;
  /// How long the phase has lasted.
  double seconds = 0;
  /// Until the run ends, by the steps so far; unset before the first one is through.
  std::optional<double> seconds_left;
};

/// Keeps the time of a run. Not thread-safe.
///
///   begin ─▶ (enter kRollout ─▶ kReward ─▶ kScore ─▶ kTrain ─▶ end_step) ─▶ enter kEval, kSave ─▶
///   rest ─▶ …; each enter ends the phase before it.
class RunMonitor {
 public:
  /// Seconds since some moment.
  using Clock = std::function<double()>;
  using Watcher = std::function<void(const RunStatus&)>;
  /// `watcher` is told of every change.
  explicit RunMonitor(Watcher watcher, Clock clock = steady_seconds);

  /// std::chrono::steady_clock's.
  static double steady_seconds();

  /// The run begins now, with `first_step` steps done before.
  void begin(int64_t max_steps, int64_t first_step);
  /// Seconds since begin().
  double seconds() const { return clock_() - begun_; }
  /// Seconds until the run ends, by the steps so far; unset before the first one is through.
  std::optional<double> seconds_left() const;

  /// A phase begins. `sequences` is what it works on, `tokens` how many it works on or, where it
  /// samples, can work on at most; 0: they are not counted.
  void enter(Phase phase, int64_t sequences = 0, int64_t tokens = 0);
  /// How far the phase is.
  void progress(int64_t done, int64_t tokens);
  /// The same as a share of its sequences and tokens.
  void progress_share(double share);
  /// The optimizer step is through.
  void end_step();
  /// No phase lasts.
  void rest();

  /// Adds time/NAME: the phase's seconds since the last call for it.
  void take_time(Phase phase, Metrics& metrics);
  /// Seconds of the phase since begin().
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
