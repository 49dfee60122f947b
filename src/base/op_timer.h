// Where the time of a forward goes, op by op: for benchmarks. Costs a load and a branch an op
// unless it is on.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace lockstep {

/// Time spent in one op.
struct OpTime {
  std::string name;
  /// Over all threads that called it, with what it called.
  double seconds = 0;
  int64_t calls = 0;
};

/// Measures an op from its construction to the end of its scope. An op inside another one is part
/// of that one. Threads: any.
class OpTimer {
 public:
  /// `name` must be a literal.
  explicit OpTimer(const char* name) {
    if (is_on.load(std::memory_order_relaxed)) begin(name);
  }
  ~OpTimer() {
    if (name_) end();
  }
  OpTimer(const OpTimer&) = delete;
  OpTimer& operator=(const OpTimer&) = delete;

  /// Forgets what was measured and begins. While no op runs.
  static void start();
  /// Ends, and returns what was measured, the largest first. While no op runs.
  static std::vector<OpTime> stop();

 private:
  void begin(const char* name);
  void end();

  static std::atomic<bool> is_on;
  /// Null: not measured.
  const char* name_ = nullptr;
  std::chrono::steady_clock::time_point begun_;
};

}  // namespace lockstep
