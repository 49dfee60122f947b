// Ctrl-C, SIGTERM and a closed terminal as a flag that is read where stopping is safe.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace lockstep {

/// Makes the first SIGINT, SIGTERM or SIGHUP set a flag, and a second SIGINT or SIGTERM end the
/// process at once with status 128 + its number. A process that was started with SIGHUP ignored
/// (nohup) ignores it.
///
/// What comes within 25 ms of the first is the same request: timeout(1) and some launchers signal a
/// process and then its whole group. What the second one leaves behind under temporary names is
/// removed by the next run (base/file.h).
///
/// A write to a pipe that nobody reads any more becomes an error of that write (EPIPE) in place of
/// a signal that ends the process: a run goes on when its log is no longer read.
void install_interrupt_handlers();

/// True once a signal has come. Threads: any.
bool interrupt_requested() noexcept;
/// The number of the first signal; 0 before it has come. Threads: any.
int interrupt_signal() noexcept;
/// Takes a signal that another process of the same run has got for one that has come here; 0: none.
/// Threads: any.
void note_interrupt(int signal) noexcept;
/// The name of the first signal, such as "SIGTERM"; "" before it has come.
std::string_view interrupt_name() noexcept;

/// Sets what the first signal writes to stderr, so that the user knows that it was heard; null:
/// nothing. The text must live as long as the process.
void announce_interrupt(const char* text) noexcept;

/// Who draws on the terminal says the text itself: with true the handler leaves it to
/// take_announcement(). Threads: any.
void announce_elsewhere(bool is_elsewhere) noexcept;
/// What is to be said of the first signal, once; null before it has come.
const char* take_announcement() noexcept;
/// Sets what a second signal writes to stderr before it ends the process, such as the end of a row
/// that is being drawn; null: nothing. The text must live as long as the process.
void set_last_words(const char* text) noexcept;

/// Throws InterruptedError "interrupted" once a signal has come, unless an InterruptHold lives.
/// Call at the edges of steps and rows.
void throw_if_interrupted();

/// While one exists, throw_if_interrupted() does not throw, so that what was begun can be finished.
/// Not thread-safe.
class InterruptHold {
 public:
  /// With `holds` false it does nothing.
  explicit InterruptHold(bool holds = true);
  ~InterruptHold();
  InterruptHold(const InterruptHold&) = delete;
  InterruptHold& operator=(const InterruptHold&) = delete;

 private:
  bool holds_;
};

}  // namespace lockstep
