// A program of the user's that is asked line by line: rewards, plugins, tools.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <utility>
#include <vector>

namespace lockstep {

/// What is started, and what it may do.
struct LineProgram {
  /// What errors call it, such as "reward brevity".
  std::string name;
  /// The program, looked up in PATH where it holds no slash, and its arguments.
  std::vector<std::string> arguments;
  /// Added to the environment.
  std::vector<std::pair<std::string, std::string>> variables = {};
  /// The longest line that it may answer with, in bytes.
  size_t longest_line = size_t{64} << 20;
  /// Whether a line that it writes unasked is an error. Otherwise it answers the next question, so
  /// that each answer behind it would be that of another question.
  bool one_line_each = false;
  /// How long it may take to end by itself once its stdin is closed.
  std::chrono::milliseconds grace{500};
};

/// A child process that answers each line on its stdin with one on its stdout.
///
///   not started ─ask▶ running ─(late, ended, or an answer that is none)▶ not started
///
/// It has a process group of its own, so that Ctrl-C at the terminal does not reach it and all that
/// it starts can be ended with it: by stop(), by the destructor, and when a second Ctrl-C ends this
/// process at once (end_line_processes). When this process is killed it reads the end of its stdin.
/// What it writes to stderr is kept for take_stderr(). Not thread-safe.
class LineProcess {
 public:
  explicit LineProcess(LineProgram program);
  ~LineProcess();
  LineProcess(const LineProcess&) = delete;
  LineProcess& operator=(const LineProcess&) = delete;

  /// Starts it unless it runs. Throws PeerError "program-failed".
  void start();
  /// Sends `line`, starting the program if it does not run, and returns the line that it answers
  /// with, both without their ends.
  ///
  /// Throws PeerError "deadline" after `timeout`, "program-failed" where it cannot be started,
  /// ends, answers with a line that is too long, or has written one unasked; InterruptedError when
  /// `cancelled` (looked at ten times a second) says so. After any of these it has been stopped.
  std::string ask(std::string_view line,
                  std::chrono::milliseconds timeout,
                  const std::function<bool()>& cancelled = {});
  /// Ends it and everything in its process group. Does nothing where it does not run.
  void stop() noexcept;

  bool is_running() const { return process_ > 0; }
  /// For errors and tests; 0 where it does not run.
  pid_t process() const { return process_; }
  const std::string& name() const { return program_.name; }

  /// What it has written to stderr since the last call, as far as it has been read; at most the
  /// last 64 KiB.
  std::string take_stderr();

 private:
  using Clock = std::chrono::steady_clock;
  /// One of our ends of its pipes; -1: closed.
  struct Pipe {
    int descriptor = -1;
    void close() noexcept;
  };

  void wait_for_events(bool writes, int timeout_ms);
  bool read_some(Pipe& pipe, std::string& into);
  void expect_silence();
  void write_some(std::string_view& rest);
  [[noreturn]] void fail_as_ended();
  std::string last_words() const;
  int reap(bool block) noexcept;

  LineProgram program_;
  pid_t process_ = 0;
  Pipe in_, out_, err_;
  /// What was read of stdout behind the last line, and of stderr.
  std::string answer_, stderr_;
  bool is_writable_ = false;
};

/// Kills the process groups of all that run: for a signal handler that ends this process.
void end_line_processes() noexcept;

}  // namespace lockstep
