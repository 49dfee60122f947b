// Shows the progress of long work on stderr: on a terminal a bar, and for a run some rows above it;
// elsewhere a line now and then.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/options.h"

namespace lockstep::cli {

/// What a progress line says.
struct ProgressState {
  /// What is counted: "step".
  std::string label;
  /// The unit, such as "rows"; "" if the label says what is counted.
  std::string unit;
  int64_t done = 0;
  /// 0 if it is not known.
  int64_t total = 0;
  /// What is done at the moment: "sampling 57/128".
  std::string detail;
  /// The rate: "3410 tokens/s".
  std::string rate;
  /// The time until the end, if it can be foreseen, and the words around it: "at most" and "for
  /// sampling".
  std::optional<double> seconds_left;
  std::string before_left, after_left;
};

/// A progress line in at most `width` columns: "step 12/400  sampling 57/128  3410 tokens/s  12:40
/// left". What matters least is left out first; if there is room, a bar follows the label. Width 0
/// gives the whole text without a bar.
std::string progress_text(const ProgressState& state, int width);

/// A duration as text: "0:25", "12:05", "3:02:05".
std::string clock_text(double seconds);
/// A rate as text: "3410 tokens/s".
std::string rate_text(double rate, std::string_view unit);

/// How progress is shown.
enum class ProgressKind : int {
  /// On a terminal what is said of it, a bar where that is nothing; elsewhere lines.
  kAuto,
  /// On a terminal one row; elsewhere lines.
  kBar,
  /// A line now and then, on a terminal too.
  kPlain,
  kNone
};
std::span<const EnumName<ProgressKind>> enum_names(ProgressKind);

/// The columns of the terminal that stderr is; 0 if it is not a terminal, or one that cannot move
/// its cursor (TERM=dumb).
int terminal_width();

/// Shows how far work is, on a thread of its own, so that the terminal is up to date while the
/// program computes. Log lines take the bar away and bring it back. One at a time; the thread that
/// made it calls everything.
class Progress {
 public:
  struct Options {
    std::string label, unit;
    int64_t total = 0;
    /// How many tokens the work can take at most, if it samples; 0 if that is not known.
    int64_t most_tokens = 0;
    /// As CommandContext::show_progress().
    bool show = true;
    ProgressKind kind = ProgressKind::kAuto;
    /// The rows above the progress line, each in at most `width` columns; null: none. Called by the
    /// drawing thread.
    std::function<std::vector<std::string>(int width)> above = nullptr;
    /// The time between lines if stderr is not a terminal, counted from the last line of any kind.
    std::chrono::seconds interval{10};
  };
  explicit Progress(Options options);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Sets the total once it is known, and starts the clock again.
  void begin(int64_t total);
  /// Says that `done` of the total is done, with `tokens` worked on so far (0: they are not
  /// counted).
  void update(int64_t done, int64_t tokens = 0);
  /// The same for work that knows its rate and its end itself.
  void update(ProgressState state);
  /// Shows the last state for good.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  ProgressState state_of(int64_t done, int64_t tokens) const;
  void run();
  int width() const;
  std::vector<std::string> rows_now(int width) const;
  void say_announcement(std::unique_lock<std::mutex>& lock);
  void draw();
  void clear();
  void stop();

  Options options_;
  /// Guards all members below it, and the terminal's last row.
  std::mutex mutex_;
  std::condition_variable woken_;
  std::optional<ProgressState> state_;
  std::vector<std::string> drawn_;
  bool is_stopping_ = false;
  Clock::time_point begun_, updated_, said_;
  std::thread drawer_;
};

}  // namespace lockstep::cli
