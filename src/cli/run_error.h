// Turns an exception into what the user sees: one line and an exit code.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <string>
#include <string_view>

namespace lockstep::cli {

/// Exit codes of the program.
enum class ExitCode : int {
  kDone = 0,
  /// An error while running.
  kFailed = 1,
  /// The command line, a configuration or an input file; nothing was written.
  kBadInput = 2,
  /// A server, rank or store failed, or a deadline passed.
  kPeer = 3,
  /// The terminal was closed (SIGHUP), after what was begun is finished. As with the other signals:
  /// 128 + its number.
  kHungUp = 129,
  /// Ctrl-C (SIGINT), likewise.
  kInterrupted = 130,
  /// SIGTERM, likewise.
  kTerminated = 143,
};

struct RunError {
  ExitCode exit_code = ExitCode::kFailed;
  /// "rank-differs", and the text behind it.
  std::string code, message;
  /// The line "lockstep: error[CODE]: WHERE: …", without a newline.
  std::string line;
  /// The stack trace of an error of libtorch; "" for others.
  std::string backtrace;

  bool is_interrupt() const { return exit_code >= ExitCode::kHungUp; }
};

/// The line of an error with this code and text.
std::string error_line(std::string_view code, std::string_view text);

/// What `error` means for the user. With `work_started` an error of the operating system is a
/// failure of the run, else one of the input.
RunError describe_error(const std::exception& error, bool work_started);

}  // namespace lockstep::cli
