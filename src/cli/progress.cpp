// Draws progress; the text is a function of its own so that it can be tested without a clock.
// SPDX-License-Identifier: Apache-2.0
#include "cli/progress.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <sys/ioctl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/interrupt.h"
#include "base/log.h"
#include "cli/blocked_signals.h"
#include "text/unicode.h"  // terminal_columns

namespace lockstep::cli {
namespace {

using text::terminal_columns;

/// The text's first `width` columns.
std::string cut_to(const std::string& text, int width) {
  size_t end = 0;
  for (int columns = 0; end < text.size(); ++end)
    if ((static_cast<unsigned char>(text[end]) & 0xC0) != 0x80 && ++columns > width) break;
  return text.substr(0, end);
}

constexpr int kLeastBar = 10, kMostBar = 24;

/// A bar such as " [####----]", or "" if there is too little room.
std::string bar_text(double share, int room) {
  const int width = std::min(room - 3, kMostBar);
  if (width < kLeastBar) return "";
  const auto filled = static_cast<size_t>(std::lround(share * width));
  return fmt::format(" [{}{}]", std::string(filled, '#'),
                     std::string(static_cast<size_t>(width) - filled, '-'));
}

}  // namespace

std::string clock_text(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(std::max(seconds, 0.0)));
  if (whole >= 3600)
    return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

std::string rate_text(double rate, std::string_view unit) {
  return rate >= 1000 ? fmt::format("{:.0f} {}/s", rate, unit)
                      : fmt::format("{:.3g} {}/s", rate, unit);
}

std::string progress_text(const ProgressState& state, int width) {
  std::string count = state.total > 0 ? fmt::format(" {}/{}", state.done, state.total)
                                      : fmt::format(" {}", state.done);
  if (!state.unit.empty()) count += " " + state.unit;
  std::string left;
  if (state.seconds_left)
    left = state.before_left + clock_text(*state.seconds_left) + " left" + state.after_left;
  const std::string* const shown[] = {&state.detail, &state.rate, &left};
  // The order in which fields are left out.
  const size_t by_importance[] = {0, 2, 1};
  size_t kept = std::size(shown);
  const auto text_of = [&](const std::string& bar) {
    std::string text = state.label + bar + count;
    for (size_t i = 0; i < std::size(shown); ++i)
      if (!shown[i]->empty() &&
          std::find(by_importance, by_importance + kept, i) != by_importance + kept)
        text += "  " + *shown[i];
    return text;
  };
  if (width <= 0) return text_of("");
  while (kept && terminal_columns(text_of("")) > width) --kept;
  const double share =
      state.total > 0 ? std::clamp(double(state.done) / double(state.total), 0.0, 1.0) : 0;
  const bool has_room = state.total > 0 && kept == std::size(shown);
  const int room = has_room ? width - terminal_columns(text_of("")) : 0;
  return cut_to(text_of(bar_text(share, room)), width);
}

int terminal_width() {
  const char* kind = std::getenv("TERM");
  if (isatty(STDERR_FILENO) != 1 || !kind || std::string_view(kind) == "dumb") return 0;
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

std::span<const EnumName<ProgressKind>> enum_names(ProgressKind) {
  static constexpr EnumName<ProgressKind> kNames[] = {{ProgressKind::kAuto, "auto"},
                                                      {ProgressKind::kBar, "bar"},
                                                      {ProgressKind::kPlain, "plain"},
                                                      {ProgressKind::kNone, "none"}};
  return kNames;
}

namespace {

/// Rows of a window in which there is no room for more than the progress line.
constexpr int kLowWindow = 8;

int terminal_height() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 ? size.ws_row : 24;
}

/// How many rows of the window the texts take now: where it has become narrower since they were
/// drawn, terminals break them.
int rows_taken(const std::vector<std::string>& texts, int width) {
  int rows = 0;
  for (const std::string& text : texts)
    rows += std::max(1, (terminal_columns(text) + width - 1) / std::max(1, width));
  return rows;
}

/// Moves the cursor from the end of the last of these texts to the beginning of the first.
std::string to_first_row(const std::vector<std::string>& texts, int width) {
  const int up = rows_taken(texts, width) - 1;
  return up > 0 ? fmt::format("\r\x1b[{}A", up) : "\r";
}

}  // namespace

Progress::Progress(Options options)
    : options_(std::move(options)), begun_(Clock::now()), updated_(begun_), said_(begun_) {
  options_.show = options_.show && options_.kind != ProgressKind::kNone;
  if (!options_.show) return;
  if (width()) {
    // The handler of a signal must not write into the rows that are drawn.
    announce_elsewhere(true);
    set_last_words("\n");
  }
  // A log line is written after the bar is taken away; the lock is held until the line is written.
  set_log_hook({.before =
                    [](void* self) {
                      static_cast<Progress*>(self)->mutex_.lock();
                      static_cast<Progress*>(self)->clear();
                    },
                .after =
                    [](void* self) {
                      auto* const progress = static_cast<Progress*>(self);
                      progress->said_ = Clock::now();
                      if (progress->width()) progress->draw();
                      progress->mutex_.unlock();
                    },
                .data = this});
  const BlockedSignals blocked;
  drawer_ = std::thread([this] { run(); });
}

Progress::~Progress() { stop(); }

void Progress::stop() {
  if (!drawer_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  woken_.notify_one();
  drawer_.join();
  set_log_hook({});
  clear();
  announce_elsewhere(false);
  set_last_words(nullptr);
  if (const char* const text = take_announcement()) std::fputs(text + (*text == '\n'), stderr);
}

/// The columns to draw in; 0: lines are written.
int Progress::width() const { return options_.kind == ProgressKind::kPlain ? 0 : terminal_width(); }

/// Says what is to be said of a signal above the rows. The log's hook takes the lock.
void Progress::say_announcement(std::unique_lock<std::mutex>& lock) {
  const char* const text = take_announcement();
  if (!text) return;
  std::string_view line(text);
  while (!line.empty() && line.front() == '\n') line.remove_prefix(1);
  while (!line.empty() && line.back() == '\n') line.remove_suffix(1);
  lock.unlock();
  log_warning("{}", line);
  lock.lock();
}

/// The loop of the drawing thread: on a terminal it draws five times a second, elsewhere it writes
/// one line in each interval.
void Progress::run() {
  std::unique_lock lock(mutex_);
  while (!woken_.wait_for(lock, std::chrono::milliseconds(200), [&] { return is_stopping_; })) {
    say_announcement(lock);
    if (width()) {
      draw();
    } else if (state_ && Clock::now() - said_ >= options_.interval) {
      said_ = Clock::now();
      const std::string text = progress_text(*state_, 0);
      // The log's hook takes the lock.
      lock.unlock();
      log_info("{}", text);
      lock.lock();
    }
  }
}

void Progress::begin(int64_t total) {
  const std::lock_guard lock(mutex_);
  options_.total = total;
  begun_ = Clock::now();
}

ProgressState Progress::state_of(int64_t done, int64_t tokens) const {
  ProgressState state{
      .label = options_.label, .unit = options_.unit, .done = done, .total = options_.total};
  const double seconds = std::chrono::duration<double>(Clock::now() - begun_).count();
  if (seconds <= 0) return state;
  const double rate = double(done) / seconds;
  if (tokens > 0)
    state.rate = rate_text(double(tokens) / seconds, "tokens");
  else if (done > 0)
    state.rate = rate_text(rate, options_.unit);
  const int64_t left = options_.total - done;
  if (left <= 0) return state;
  if (done > 0) state.seconds_left = double(left) / rate;
  // Sequences that are sampled together end at about the same time. Until the first ones have
  // ended, only the number of tokens that can still come at most says when that is.
  if (tokens <= 0 || options_.most_tokens <= 0) return state;
  const double by_tokens = double(options_.most_tokens - tokens) * seconds / double(tokens);
  if (state.seconds_left && *state.seconds_left <= by_tokens) return state;
  state.seconds_left = by_tokens;
  state.before_left = "at most ";
  return state;
}

void Progress::update(int64_t done, int64_t tokens) {
  if (options_.show) update(state_of(done, tokens));
}

void Progress::update(ProgressState state) {
  if (!options_.show) return;
  const std::lock_guard lock(mutex_);
  const bool is_first = !state_;
  state_ = std::move(state);
  updated_ = Clock::now();
  if (is_first && width()) draw();
}

/// What is drawn: each row in fewer columns than the window has, since a character in the last
/// column would make some terminals begin a new line.
std::vector<std::string> Progress::rows_now(int width) const {
  ProgressState now = *state_;
  if (now.seconds_left)
    now.seconds_left = std::max(
        0.0, *now.seconds_left - std::chrono::duration<double>(Clock::now() - updated_).count());
  std::vector<std::string> rows;
  if (options_.above && options_.kind == ProgressKind::kAuto && terminal_height() > kLowWindow)
    rows = options_.above(width - 1);
  rows.push_back(progress_text(now, width - 1));
  return rows;
}

/// The caller holds the lock.
void Progress::draw() {
  const int columns = width();
  if (!state_ || !columns) return;
  std::vector<std::string> rows = rows_now(columns);
  if (rows == drawn_) return;
  std::string bytes = drawn_.empty() ? "\r" : to_first_row(drawn_, columns);
  for (size_t i = 0; i < rows.size(); ++i) bytes += (i ? "\n" : "") + rows[i] + "\x1b[K";
  // What was below, where there were more rows.
  if (rows_taken(drawn_, columns) > static_cast<int>(rows.size())) bytes += "\x1b[J";
  std::fputs(bytes.c_str(), stderr);
  std::fflush(stderr);
  drawn_ = std::move(rows);
}

/// The caller holds the lock.
void Progress::clear() {
  if (drawn_.empty()) return;
  const bool is_one = drawn_.size() == 1;
  std::fputs((to_first_row(drawn_, std::max(1, width())) + (is_one ? "\x1b[K" : "\x1b[J")).c_str(),
             stderr);
  std::fflush(stderr);
  drawn_.clear();
}

void Progress::finish() {
  if (!drawer_.joinable()) return;
  stop();
  if (!state_) return;
  state_->seconds_left.reset();
  // The rows above are for work that goes on.
  options_.above = nullptr;
  if (!width()) return log_info("{}", progress_text(*state_, 0));
  draw();
  std::fputc('\n', stderr);
}

}  // namespace lockstep::cli
