// Programs of the user's that answer a line of JSON with a line of JSON.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/line_process.h"

namespace lockstep::reward {

/// The process's answer to a line, one line there and one back. Throws what LineProcess::ask
/// throws, and PeerError "program-failed" for a line that is no JSON, after which the process has
/// been stopped.
Json ask_json(LineProcess& process,
              std::string_view line,
              std::chrono::milliseconds timeout,
              const JsonLimits& limits = {});

/// Some processes of one command of the shell's. Not thread-safe.
class ProgramWorkers {
 public:
  /// `program` says what the processes are called and how long a line may be; its arguments are
  /// not read.
  ProgramWorkers(LineProgram program, const std::string& command, int64_t num_workers);

  size_t size() const { return workers_.size(); }
  LineProcess& operator[](size_t worker) { return *workers_[worker]; }
  /// Calls work(process, index) for each index below `count`, each process in a thread of its own.
  /// Rethrows what the first of them threw.
  void share(size_t count, const std::function<void(LineProcess&, size_t)>& work);
  /// Logs what they have written to stderr.
  void log();

 private:
  std::vector<std::unique_ptr<LineProcess>> workers_;
};

}  // namespace lockstep::reward
