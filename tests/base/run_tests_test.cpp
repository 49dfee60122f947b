// A test that dies says how to see it again, as one that fails does.
// SPDX-License-Identifier: Apache-2.0
#include "tests/support/run_tests.h"

#include <csignal>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lockstep::testing {
namespace {

struct Death {
  int signal = 0;
  std::string text;
};

/// What a child of this test says that dies by `number`.
Death die_by(int number) {
  int ends[2];
  if (::pipe(ends) != 0) return {};
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], STDOUT_FILENO);
    std::raise(number);
    ::_exit(0);
  }
  ::close(ends[1]);
  Death death;
  char buffer[256];
  for (ssize_t got; (got = ::read(ends[0], buffer, sizeof(buffer))) > 0;)
    death.text.append(buffer, static_cast<size_t>(got));
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) death.signal = WTERMSIG(status);
  return death;
}

TEST(RunTests, ATestThatDiesSaysHowToSeeItAgain) {
  for (const int number : {SIGSEGV, SIGABRT, SIGFPE, SIGILL, SIGBUS}) {
    const Death death = die_by(number);
    EXPECT_EQ(death.signal, number);
    EXPECT_THAT(death.text, ::testing::MatchesRegex(
                                "again: LOCKSTEP_TEST_SEED=[0-9]+ with "
                                "--gtest_filter=RunTests.ATestThatDiesSaysHowToSeeItAgain\n"));
  }
}

}  // namespace
}  // namespace lockstep::testing
