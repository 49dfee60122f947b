// What becomes of completions that a reward in another process fails at.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

namespace lockstep::reward {

/// Counts the completions that go without a value because a reward failed. The first failure is
/// logged, and the run ends when there are too many. Threads: safe.
class Failures {
 public:
  /// `most` may go without; one more ends the run.
  Failures(std::string name, int64_t most) : name_(std::move(name)), most_(most) {}

  /// Says that `completions` of them, the first of the row at `where`, go without a value, and why.
  void add(int64_t completions, std::string_view where, std::string_view why);
  /// Whether there are too many, so that asking further is of no use.
  bool is_over() const;
  /// Logs the first failure. Throws PeerError "reward-failed" when there are too many. Call on the
  /// thread that may log.
  void report();
  int64_t count() const;

 private:
  std::string name_;
  int64_t most_;
  mutable std::mutex mutex_;
  int64_t count_ = 0;
  /// "WHERE: WHY" of the first and of the last one.
  std::string first_, last_;
  bool is_logged_ = false;
};

}  // namespace lockstep::reward
