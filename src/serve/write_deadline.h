// When a client that takes nothing has had its time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

namespace lockstep::serve {

/// The deadline for a client to take what is sent. The system says that there is room only when a
/// third of the megabytes that it holds has left, for which a slow client needs longer than its
/// time. So it is tried to write a few times within the timeout: any bytes that the client took
/// have made room. Tries are counted, since a clock goes on while something holds up the program.
class WriteDeadline {
 public:
  using Clock = std::chrono::steady_clock;

  explicit WriteDeadline(std::chrono::milliseconds timeout) : pause_(timeout / kTries) {
    begin_anew();
  }
  /// Bytes were written.
  void begin_anew() {
    num_waits_ = 0;
    next_try_ = Clock::now() + pause_;
  }
  /// When to write again if the system does not say before that there is room.
  Clock::time_point next_try() const { return next_try_; }
  /// It is next_try().
  void count_wait() {
    ++num_waits_;
    next_try_ = Clock::now() + pause_;
  }
  /// Asked after a try without room: whether there was none for the whole timeout.
  bool has_passed() const { return num_waits_ >= kTries; }

 private:
  static constexpr int kTries = 4;

  Clock::duration pause_;
  int num_waits_ = 0;
  Clock::time_point next_try_;
};

}  // namespace lockstep::serve
