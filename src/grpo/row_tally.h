// Counts the rows of a data set: how many are used, and why the others are not.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/log.h"

namespace lockstep::grpo {

/// Counts the rows that are dropped on their way to prompts and samples. Not thread-safe.
class RowTally {
 public:
  /// `name` is what the log calls the rows; `num_unreadable` of them were dropped while the files
  /// were read. If `strict`, the first bad row ends the run.
  RowTally(std::string name, bool strict, int64_t num_unreadable)
      : name_(std::move(name)), strict_(strict) {
    if (num_unreadable) dropped_["bad"] = num_unreadable;
  }

  /// Runs `use` on a row. If that throws FormatError, the row is bad: the run ends, or the row is
  /// dropped, counted and, if it is one of the first ten, logged. Throws InterruptedError between
  /// rows.
  template <class Use>
  void guard(Use&& use) {
    throw_if_interrupted();
    try {
      use();
    } catch (const FormatError& error) {
      if (strict_ || error.code() != "bad-row") throw;
      if (++num_told_ <= 10) log_warning("{}: dropped: {}", name_, error.what());
      drop("bad");
    }
  }

  /// Counts a row that is dropped for another reason, such as "longer than 512 tokens".
  void drop(const std::string& reason) { ++dropped_[reason]; }

  /// Logs the counts. Call it when no more rows can be dropped.
  void report(int64_t num_used) const {
    int64_t total = num_used;
    std::string reasons;
    for (const auto& [reason, count] : dropped_) {
      total += count;
      reasons += fmt::format("{}{} {}", reasons.empty() ? "; dropped: " : ", ", count, reason);
    }
    log_info("{}: {} of {} rows are used{}", name_, num_used, total, reasons);
  }

 private:
  std::string name_;
  bool strict_;
  int64_t num_told_ = 0;
  std::map<std::string, int64_t> dropped_;
};

}  // namespace lockstep::grpo
