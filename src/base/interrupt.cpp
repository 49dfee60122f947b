// SPDX-License-Identifier: Apache-2.0
#include "base/interrupt.h"

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <signal.h>
#include <unistd.h>

#include "base/check.h"
#include "base/line_process.h"

namespace lockstep {
namespace {

// Signals that come within this many nanoseconds are one request.
constexpr int64_t kSameRequest = 25'000'000;

std::atomic<int> received_signal{0};
std::atomic<int64_t> received_at{0};
std::atomic<const char*> announcement{nullptr};
std::atomic<const char*> last_words{nullptr};
std::atomic<bool> is_announced_elsewhere{false}, is_announcement_due{false};
std::atomic<int> num_holds{0};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free &&
                  std::atomic<const char*>::is_always_lock_free,
              "a signal handler may only touch such");

int64_t now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * int64_t{1'000'000'000} + time.tv_nsec;
}

void write_text(const char* text) {
  // Nothing can be done about a stderr that is closed.
  if (text && ::write(STDERR_FILENO, text, std::strlen(text)) < 0) return;
}

extern "C" void on_signal(int signal) {
  const int error = errno;
  const int64_t time = now();
  int64_t none = 0;
  if (!received_at.compare_exchange_strong(none, time)) {
    // A shell passes SIGHUP on, and the system sends another one when the shell ends.
    if (signal != SIGHUP && time - none >= kSameRequest) {
      end_line_processes();
      write_text(last_words.load());
      _exit(128 + signal);
    }
  } else {
    received_signal.store(signal);
    if (is_announced_elsewhere.load())
      is_announcement_due.store(true);
    else
      write_text(announcement.load());
  }
  errno = error;
}

}  // namespace

void install_interrupt_handlers() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  // No SA_RESTART: a read from the terminal returns, so that its caller can look at the flag.
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  struct sigaction before = {};
  if (sigaction(SIGHUP, nullptr, &before) == 0 && before.sa_handler != SIG_IGN)
    sigaction(SIGHUP, &action, nullptr);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
}

int interrupt_signal() noexcept { return received_signal.load(); }

void note_interrupt(int signal) noexcept {
  int none = 0;
  // A signal that comes now is the first one here: it does not end this process at once.
  if (signal) received_signal.compare_exchange_strong(none, signal);
}

bool interrupt_requested() noexcept { return interrupt_signal() != 0; }

std::string_view interrupt_name() noexcept {
  switch (interrupt_signal()) {
    case SIGINT:
      return "SIGINT";
    case SIGTERM:
      return "SIGTERM";
    case SIGHUP:
      return "SIGHUP";
    default:
      return "";
  }
}

void announce_interrupt(const char* text) noexcept { announcement.store(text); }

void announce_elsewhere(bool is_elsewhere) noexcept { is_announced_elsewhere.store(is_elsewhere); }

const char* take_announcement() noexcept {
  return is_announcement_due.exchange(false) ? announcement.load() : nullptr;
}

void set_last_words(const char* text) noexcept { last_words.store(text); }

void throw_if_interrupted() {
  if (!interrupt_requested() || num_holds.load() > 0) return;
  fail<InterruptedError>("interrupted", "this process", "expected to finish, got {}",
                         interrupt_name());
}

InterruptHold::InterruptHold(bool holds) : holds_(holds) {
  if (holds_) ++num_holds;
}

InterruptHold::~InterruptHold() {
  if (holds_) --num_holds;
}

}  // namespace lockstep
