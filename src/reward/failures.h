// What becomes of completions that something in another process fails at.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

namespace lockstep::reward {

/// How the log and the error name what fails; the parts of
///
///   WHAT has failed, and CONSEQUENCE: … (COUNTED; more than N end the run: FLAG)
///   WHERE: expected at most N THINGS (FLAG), got M; the last one: …
struct FailureWords {
  /// The code of the error.
  std::string code;
  std::string where, what, consequence, counted, things, flag;
};

/// Counts what goes wrong in other processes, such as the completions that go without a value
/// because a reward failed. The first failure is logged, and the run ends when there are too many.
/// Threads: safe.
class Failures {
 public:
  /// `most` may be; one more ends the run.
  Failures(FailureWords words, int64_t most) : words_(std::move(words)), most_(most) {}

  /// Says that `count` of them, the first of the row at `where`, have failed, and why.
  void add(int64_t count, std::string_view where, std::string_view why);
  /// Whether there are too many, so that asking further is of no use.
  bool is_over() const;
  /// Logs the first failure. Throws PeerError when there are too many. Call on the thread that may
  /// log.
  void report();
  int64_t count() const;

 private:
  FailureWords words_;
  int64_t most_;
  mutable std::mutex mutex_;
  int64_t count_ = 0;
  /// "WHERE: WHY" of the first and of the last one.
  std::string first_, last_;
  bool is_logged_ = false;
};

}  // namespace lockstep::reward
