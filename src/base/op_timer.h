// Measures where the time of a forward goes, op by op, for benchmarks. While it is off it costs one
// load and one branch for each op.
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
  /// Summed over all threads that called it; includes what it called.
  double seconds = 0;
  int64_t calls = 0;
};

/// Measures an op from the timer's construction to the end of its scope. An op inside another one
/// counts as part of that one. Threads: any.
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

  /// Forgets what was measured and begins to measure. Call while no op runs.
  static void start();
  /// Ends measuring and returns the times, the largest first. Call while no op runs.
  static std::vector<OpTime> stop();

 private:
  void begin(const char* name);
  void end();

  static std::atomic<bool> is_on;
  /// Null if this op is not measured.
  const char* name_ = nullptr;
  std::chrono::steady_clock::time_point begun_;
};

}  // namespace lockstep
