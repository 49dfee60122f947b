// Progress of long work: a bar on a terminal, one line an interval elsewhere, both on stderr.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace lockstep::cli {

/// What a progress line says.
struct ProgressState {
  /// "train"
  std::string_view label;
  /// "step"
  std::string_view unit;
  int64_t done = 0;
  /// 0: unknown.
  int64_t total = 0;
  /// Where this run began (a resumed one does not begin at 0); the rate counts from here.
  int64_t start = 0;
  /// Since the start.
  double seconds = 0;
  /// "loss 1.23"
  std::string_view note;
};

/// "train 12/100 step  3.4 step/s  0:25 left  loss 1.23"; with a bar of `bar_width` characters when
/// that is not 0.
std::string progress_text(const ProgressState& state, int bar_width);

/// Shows how far a loop is; log lines take the bar away first. One at a time. Not thread-safe.
class Progress {
 public:
  struct Options {
    std::string label, unit = "step";
    int64_t total = 0;
    int64_t start = 0;
    /// CommandContext::show_progress().
    bool show = true;
    /// Between lines where stderr is no terminal.
    std::chrono::seconds interval{10};
  };
  explicit Progress(Options options);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Tells the total and where this run begins, once they are known; the clock starts anew.
  void begin(int64_t total, int64_t start);
  /// `done` of the total; drawn at most ten times a second.
  void update(int64_t done, std::string_view note = {});
  /// Takes the bar away so that a line can be logged; the next update draws it again.
  void clear();
  /// The last state, for good.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  void draw(Clock::time_point now);

  Options options_;
  int64_t done_ = 0;
  std::string note_;
  bool is_terminal_ = false, is_drawn_ = false, is_finished_ = false;
  Clock::time_point begun_, drawn_;
};

}  // namespace lockstep::cli
