// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <csignal>

namespace lockstep::cli {

/// While one exists, threads that are started get no signals: those are for the computing thread,
/// whose waits they end.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t before_{};
};

}  // namespace lockstep::cli
