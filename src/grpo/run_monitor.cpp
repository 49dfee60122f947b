// SPDX-License-Identifier: Apache-2.0
#include "grpo/run_monitor.h"

#include <algorithm>
#include <chrono>
#include <string>

namespace lockstep::grpo {
namespace {

struct PhaseText {
  const char* name;
  const char* doing;
  const char* brief;
};
constexpr PhaseText kPhases[kNumPhases] = {
    {"sync", "sending weights", "send"}, {"rollout", "sampling", "sample"},
    {"reward", "rewarding", "reward"},   {"score", "scoring", "score"},
    {"train", "training", "train"},      {"eval", "evaluating", "eval"},
    {"save", "saving", "save"}};

}  // namespace

const char* phase_name(Phase phase) { return kPhases[static_cast<size_t>(phase)].name; }
const char* phase_doing(Phase phase) { return kPhases[static_cast<size_t>(phase)].doing; }
const char* phase_brief(Phase phase) { return kPhases[static_cast<size_t>(phase)].brief; }

RunMonitor::RunMonitor(Watcher watcher, Clock clock)
    : watcher_(std::move(watcher)), clock_(std::move(clock)), begun_(clock_()) {}

double RunMonitor::steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void RunMonitor::begin(int64_t max_steps, int64_t first_step) {
  status_.max_steps = max_steps;
  status_.step = first_step_ = first_step;
  begun_ = step_ended_ = clock_();
}

std::optional<double> RunMonitor::seconds_left() const {
  const int64_t run = status_.step - first_step_, rest = status_.max_steps - status_.step;
  if (!run) return {};
  if (rest <= 0) return 0.0;
  // The current step has used some of its time already.
  const double each = (step_ended_ - begun_) / static_cast<double>(run);
  const double used = std::min(each, clock_() - step_ended_);
  return each * static_cast<double>(rest) - used;
}

void RunMonitor::enter(Phase phase, int64_t sequences, int64_t tokens) {
  end_phase();
  status_.phase = phase;
  status_.done = status_.tokens = 0;
  status_.total = sequences;
  status_.total_tokens = tokens;
  phase_begun_ = clock_();
  status_.is_resting = false;
  tell();
}

void RunMonitor::progress(int64_t done, int64_t tokens) {
  status_.done = done;
  status_.tokens = tokens;
  tell();
}

void RunMonitor::progress_share(double share) {
  progress(static_cast<int64_t>(share * static_cast<double>(status_.total)),
           static_cast<int64_t>(share * static_cast<double>(status_.total_tokens)));
}

void RunMonitor::end_step() {
  end_phase();
  ++status_.step;
  step_ended_ = clock_();
  tell();
}

void RunMonitor::rest() {
  end_phase();
  tell();
}

void RunMonitor::end_phase() {
  if (!status_.is_resting) total_[static_cast<size_t>(status_.phase)] += clock_() - phase_begun_;
  status_.is_resting = true;
}

void RunMonitor::take_time(Phase phase, Metrics& metrics) {
  const auto index = static_cast<size_t>(phase);
  const double total = total_seconds(phase);
  metrics.add(std::string("time/") + phase_name(phase), total - taken_[index]);
  taken_[index] = total;
}

double RunMonitor::total_seconds(Phase phase) const {
  return total_[static_cast<size_t>(phase)] +
         (!status_.is_resting && status_.phase == phase ? clock_() - phase_begun_ : 0);
}

void RunMonitor::tell() {
  status_.seconds = clock_() - phase_begun_;
  status_.seconds_left = seconds_left();
  watcher_(status_);
}

}  // namespace lockstep::grpo
