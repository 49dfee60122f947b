// SPDX-License-Identifier: Apache-2.0
#include "base/interrupt.h"

#include <atomic>
#include <signal.h>
#include <unistd.h>

#include "base/check.h"

namespace lockstep {
namespace {

std::atomic<int> received_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may only touch such");

extern "C" void on_signal(int signal) {
  if (received_signal.exchange(signal) != 0) _exit(130);
}

}  // namespace

void install_interrupt_handlers() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  // No SA_RESTART: a read from the terminal returns, so that its caller can look at the flag.
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool interrupt_requested() noexcept { return received_signal.load() != 0; }

void throw_if_interrupted() {
  if (!interrupt_requested()) return;
  fail<InterruptedError>("interrupted", "this process", "expected to finish, got signal {}{}",
                         received_signal.load(),
                         " (hint: a training run goes on with --resume_from_checkpoint last)");
}

}  // namespace lockstep
