// Runs the built program as a user would: arguments in, exit code, stdout and stderr out.
// SPDX-License-Identifier: Apache-2.0
//
// LOCKSTEP_TEST_PROGRAM in the environment names another build of the program.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <sys/types.h>
#include <utility>
#include <vector>

#include "tests/support/temp_dir.h"

namespace lockstep::testing {

struct ProgramResult {
  /// 128 + signal for a program that a signal ended.
  int exit_code = -1;
  std::string out, err;
  /// The most of the machine's memory that it held at once.
  int64_t peak_bytes = 0;
};

/// What is unusual about the world that the program is started in.
struct ProgramWorld {
  /// Another program than the one under test; "": that one.
  std::string program = {};
  /// Added to the environment.
  std::vector<std::pair<std::string, std::string>> variables = {};
  /// No file may grow beyond this many bytes (a write fails as on a full disk); unset: no limit.
  std::optional<uint64_t> file_limit = {};
  /// Its stdin.
  std::filesystem::path input = "/dev/null";
  /// Where relative paths begin; "": where the test runs.
  std::filesystem::path directory = {};
};

/// A started program; killed, if it still runs, at the end of the scope.
class RunningProgram {
 public:
  explicit RunningProgram(const std::vector<std::string>& arguments,
                          const ProgramWorld& world = {});
  ~RunningProgram();
  RunningProgram(const RunningProgram&) = delete;
  RunningProgram& operator=(const RunningProgram&) = delete;

  pid_t process() const { return process_; }
  bool is_running();
  void send(int signal);
  /// What it wrote to stderr up to now.
  std::string err() const { return slurp(folder_ / "err"); }
  /// Waits for its end.
  ProgramResult wait();

 private:
  /// Takes the ended program's status; `options` of wait4. False where it still runs.
  bool collect(int options);

  TempDir folder_;
  pid_t process_ = -1;
  std::optional<int> status_;
  int64_t peak_bytes_ = 0;
};

/// Runs the program and waits for its end.
ProgramResult run_program(const std::vector<std::string>& arguments,
                          const ProgramWorld& world = {});

/// Waits until `is_so`; false after a minute, or when the program has ended without it.
bool wait_until(RunningProgram& program, const std::function<bool()>& is_so);

/// Path of the program under test.
std::string program_path();

/// `text` as one word of a shell.
std::string shell_word(const std::string& text);

}  // namespace lockstep::testing
