// SPDX-License-Identifier: Apache-2.0
#include "base/interrupt.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace lockstep {
namespace {

TEST(Interrupt, FirstSignalSetsAFlagAndTheSecondEndsTheProcess) {
  const pid_t child = ::fork();
  if (child == 0) {
    install_interrupt_handlers();
    if (interrupt_requested()) ::_exit(1);
    ::raise(SIGTERM);
    if (!interrupt_requested()) ::_exit(2);
    ::raise(SIGINT);
    ::_exit(3);  // not reached
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130);
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
