// Progress of long work: a bar on a terminal, one line an interval elsewhere, both on stderr.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace lockstep::cli {

/// What a progress line says.
struct ProgressState {
  /// "step"
  std::string label;
  /// "rows"; "" where the label says what is counted.
  std::string unit;
  int64_t done = 0;
  /// 0: unknown.
  int64_t total = 0;
  /// "sampling 57/128": what is done at the moment.
  std::string detail;
  /// "3410 tokens/s"
  std::string rate;
  /// Until the end, where that can be said, and the words around it: "at most" … "for sampling".
  std::optional<double> seconds_left;
  std::string before_left, after_left;
};

/// "step 12/400  sampling 57/128  3410 tokens/s  12:40 left" in at most `width` columns: what
/// matters least is left out first, and where there is room a bar stands behind the label. Width 0:
/// the whole text without a bar.
std::string progress_text(const ProgressState& state, int width);

/// "0:25", "12:05", "3:02:05".
std::string clock_text(double seconds);
/// "3410 tokens/s"
std::string rate_text(double rate, std::string_view unit);

/// Fields side by side, two spaces between them; where that takes more than `width` columns (0: no
/// limit), as many to a line as fit, lines after the first indented by two.
std::string wrapped_fields(const std::vector<std::string>& fields, int width);

/// Columns of the terminal that stderr is; 0 where it is none, or one that cannot move its cursor
/// (TERM=dumb).
int terminal_width();

/// Shows how far work is, on a thread of its own, so that the terminal is up to date while the
/// program computes. Log lines take the bar away and bring it back. One at a time; the thread that
/// made it calls everything.
class Progress {
 public:
  struct Options {
    std::string label, unit;
    int64_t total = 0;
    /// Most tokens that the work can take, where it samples; 0: unknown.
    int64_t most_tokens = 0;
    /// CommandContext::show_progress().
    bool show = true;
    /// Between lines where stderr is no terminal, since the last line of any kind.
    std::chrono::seconds interval{10};
  };
  explicit Progress(Options options);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Tells the total, once it is known; the clock starts anew.
  void begin(int64_t total);
  /// `done` of the total, with `tokens` worked on so far (0: they are not counted).
  void update(int64_t done, int64_t tokens = 0);
  /// The same for work that knows its rate and its end itself.
  void update(ProgressState state);
  /// Shows the last state for good.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  ProgressState state_of(int64_t done, int64_t tokens) const;
  void run();
  void draw();
  void clear();
  void stop();

  Options options_;
  /// Guards all below, and the terminal's last row.
  std::mutex mutex_;
  std::condition_variable woken_;
  std::optional<ProgressState> state_;
  std::string drawn_text_;
  bool is_stopping_ = false;
  Clock::time_point begun_, updated_, said_;
  std::thread drawer_;
};

}  // namespace lockstep::cli
