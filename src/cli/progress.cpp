// Draws progress; the text is a function of its own so that it can be tested without a clock.
// SPDX-License-Identifier: Apache-2.0
#include "cli/progress.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <unistd.h>

#include <fmt/format.h>

#include "base/log.h"

namespace lockstep::cli {
namespace {

/// 0:25, 12:05, 3:02:05.
std::string clock_text(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(std::max(seconds, 0.0)));
  if (whole >= 3600)
    return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

/// Slow work is counted in seconds a unit.
std::string rate_text(double rate, std::string_view unit) {
  return rate >= 1 ? fmt::format("{:.3g} {}/s", rate, unit)
                   : fmt::format("{:.3g} s/{}", 1 / rate, unit);
}

}  // namespace

std::string progress_text(const ProgressState& state, int bar_width) {
  std::string text(state.label);
  const double share =
      state.total > 0 ? std::clamp(double(state.done) / double(state.total), 0.0, 1.0) : 0;
  if (bar_width > 0 && state.total > 0) {
    const auto filled = static_cast<size_t>(std::lround(share * bar_width));
    text += fmt::format(" [{}{}]", std::string(filled, '#'),
                        std::string(static_cast<size_t>(bar_width) - filled, '-'));
  }
  text += state.total > 0 ? fmt::format(" {}/{} {}", state.done, state.total, state.unit)
                          : fmt::format(" {} {}", state.done, state.unit);
  const int64_t run = state.done - state.start;
  if (run > 0 && state.seconds > 0) {
    const double rate = double(run) / state.seconds;
    text += "  " + rate_text(rate, state.unit);
    if (state.total > state.done)
      text += fmt::format("  {} left", clock_text(double(state.total - state.done) / rate));
  }
  if (!state.note.empty()) text += fmt::format("  {}", state.note);
  return text;
}

Progress::Progress(Options options)
    : options_(std::move(options)), done_(options_.start), begun_(Clock::now()), drawn_(begun_) {
  is_terminal_ = options_.show && isatty(STDERR_FILENO) == 1;
  set_log_hook([](void* self) { static_cast<Progress*>(self)->clear(); }, this);
}

Progress::~Progress() {
  set_log_hook(nullptr, nullptr);
  clear();
}

void Progress::begin(int64_t total, int64_t start) {
  options_.total = total;
  options_.start = done_ = start;
  begun_ = drawn_ = Clock::now();
}

void Progress::update(int64_t done, std::string_view note) {
  done_ = done;
  note_ = note;
  if (!options_.show) return;
  const Clock::time_point now = Clock::now();
  const auto least =
      is_terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(options_.interval);
  if (now - drawn_ >= least) draw(now);
}

void Progress::draw(Clock::time_point now) {
  constexpr int kBarWidth = 24;
  drawn_ = now;
  const ProgressState state{.label = options_.label,
                            .unit = options_.unit,
                            .done = done_,
                            .total = options_.total,
                            .start = options_.start,
                            .seconds = std::chrono::duration<double>(now - begun_).count(),
                            .note = note_};
  if (!is_terminal_) return log_info("{}", progress_text(state, 0));
  std::fprintf(stderr, "\r%s\x1b[K", progress_text(state, kBarWidth).c_str());
  std::fflush(stderr);
  is_drawn_ = true;
}

void Progress::clear() {
  if (!is_drawn_) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  is_drawn_ = false;
}

void Progress::finish() {
  if (!options_.show || is_finished_) return;
  is_finished_ = true;
  draw(Clock::now());
  if (is_drawn_) std::fputc('\n', stderr);
  is_drawn_ = false;
}

}  // namespace lockstep::cli
