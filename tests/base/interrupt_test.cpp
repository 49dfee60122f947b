// SPDX-License-Identifier: Apache-2.0
#include "base/interrupt.h"

#include <algorithm>
#include <cerrno>
#include <signal.h>
#include <string>
#include <string_view>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/check.h"

namespace lockstep {
namespace {

TEST(Interrupt, FirstSignalSetsAFlagAndTheSecondEndsTheProcess) {
  const pid_t child = ::fork();
  if (child == 0) {
    install_interrupt_handlers();
    if (interrupt_requested()) ::_exit(1);
    ::raise(SIGTERM);
    if (!interrupt_requested() || interrupt_signal() != SIGTERM) ::_exit(2);
    // timeout(1) signals its child and then the child's group: that is one request.
    ::raise(SIGTERM);
    ::usleep(150'000);
    ::raise(SIGINT);
    ::_exit(3);  // not reached
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 128 + SIGINT);
}

/// A closed terminal: the shell passes its SIGHUP on and the system sends another one.
TEST(Interrupt, AClosedTerminalIsOneRequestHoweverOftenItIsSaid) {
  const pid_t child = ::fork();
  if (child == 0) {
    install_interrupt_handlers();
    ::raise(SIGHUP);
    if (interrupt_signal() != SIGHUP || interrupt_name() != "SIGHUP") ::_exit(1);
    ::usleep(50'000);
    ::raise(SIGHUP);
    ::raise(SIGTERM);
    ::_exit(2);  // not reached
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGTERM) << status;
}

TEST(Interrupt, NohupHolds) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGHUP, SIG_IGN);
    install_interrupt_handlers();
    ::raise(SIGHUP);
    ::_exit(interrupt_requested() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(Interrupt, APipeThatNobodyReadsIsAnErrorOfTheWrite) {
  const pid_t child = ::fork();
  if (child == 0) {
    install_interrupt_handlers();
    int ends[2];
    if (::pipe(ends) != 0) ::_exit(1);
    ::close(ends[0]);
    ::_exit(::write(ends[1], "x", 1) < 0 && errno == EPIPE ? 0 : 2);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(Interrupt, AHoldLetsFinishWhatWasBegun) {
  const pid_t child = ::fork();
  if (child == 0) {
    install_interrupt_handlers();
    try {
      const InterruptHold hold;
      const InterruptHold none(false);
      ::raise(SIGTERM);
      throw_if_interrupted();
    } catch (const InterruptedError&) {
      ::_exit(1);
    }
    try {
      const InterruptHold none(false);
      throw_if_interrupted();
    } catch (const InterruptedError& error) {
      ::_exit(std::string_view(error.what()).ends_with("got SIGTERM") ? 0 : 2);
    }
    ::_exit(3);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(Interrupt, TheFirstSignalSaysThatItWasHeard) {
  int out[2];
  ASSERT_EQ(::pipe(out), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(out[1], STDERR_FILENO);
    install_interrupt_handlers();
    announce_interrupt("heard\n");
    ::raise(SIGINT);
    ::raise(SIGINT);
    ::_exit(0);
  }
  ::close(out[1]);
  char text[64];
  const ssize_t count = ::read(out[0], text, sizeof(text));
  EXPECT_EQ(std::string(text, static_cast<size_t>(std::max<ssize_t>(count, 0))), "heard\n");
  EXPECT_EQ(::read(out[0], text, sizeof(text)), 0);
  ::waitpid(child, nullptr, 0);
}

TEST(Interrupt, ThrowsOnlyAfterASignal) {
  EXPECT_NO_THROW(throw_if_interrupted());
  const pid_t child = ::fork();
  if (child == 0) {
    install_interrupt_handlers();
    ::raise(SIGINT);
    try {
      throw_if_interrupted();
    } catch (const InterruptedError& error) {
      ::_exit(error.code() == "interrupted" ? 0 : 1);
    }
    ::_exit(2);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace lockstep
