// What a judgement may cost: an answer must not hold up a training, whatever a model writes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace lockstep::reward {

/// Ends a judgement that would cost too much; it never leaves Solution.
struct TooMuchWork {};

/// Steps of roughly ten nanoseconds. They count operations and not time, so that the same answer
/// gets the same reward on every machine. Not thread-safe.
class WorkBudget {
 public:
  explicit WorkBudget(int64_t steps) : left_(steps) {}
  int64_t left() const { return left_; }
  /// Throws TooMuchWork.
  void spend(int64_t steps) {
    left_ -= steps;
    if (left_ < 0) throw TooMuchWork{};
  }

 private:
  int64_t left_;
};

}  // namespace lockstep::reward
