// Programs that are asked line by line, and all the ways in which they fail.
// SPDX-License-Identifier: Apache-2.0
#include "base/line_process.h"

#include <cerrno>
#include <csignal>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::HasSubstr;

constexpr milliseconds kLong{20'000};

LineProgram shell(const std::string& script) {
  return {.name = "test program", .arguments = {"/bin/sh", "-c", script}};
}

bool exists(pid_t process) { return ::kill(process, 0) == 0 || errno == EPERM; }
bool ends_soon(pid_t process) {
  for (int i = 0; i < 500 && exists(process); ++i) std::this_thread::sleep_for(milliseconds(10));
  return !exists(process);
}

TEST(LineProcess, AnswersLineByLine) {
  LineProcess process(shell("while read -r line; do echo \"<$line>\"; done"));
  EXPECT_FALSE(process.is_running());
  EXPECT_EQ(process.ask("one", kLong), "<one>");
  const pid_t first = process.process();
  EXPECT_EQ(process.ask("two words", kLong), "<two words>");
  EXPECT_EQ(process.process(), first);
}

// A program that answers while it is still written to must not wait for us, nor we for it.
TEST(LineProcess, CarriesLinesLongerThanAPipe) {
  LineProcess process(shell("exec cat"));
  const std::string line(size_t{3} << 20, 'x');
  EXPECT_TRUE(process.ask(line, kLong) == line);
  EXPECT_TRUE(process.ask(line, kLong) == line);
}

TEST(LineProcess, KeepsLinesThatComeTogetherApart) {
  LineProcess process(shell("read -r a; printf '1\\n2\\n'; read -r b; sleep 20"));
  EXPECT_EQ(process.ask("a", kLong), "1");
  EXPECT_EQ(process.ask("b", kLong), "2");
}

TEST(LineProcess, ALineThatNobodyAskedForIsAnErrorWhereEachIsAnAnswer) {
  LineProgram program = shell("while read -r a; do printf '1\\n2\\n'; done");
  program.one_line_each = true;
  LineProcess process(program);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(process.ask("a", kLong), "1");
    EXPECT_ERROR(process.ask("a", kLong), PeerError, "program-failed",
                 "expected one line for each that it is asked, got another one: 2 (");
    EXPECT_FALSE(process.is_running());
  }
}

TEST(LineProcess, ADeadlineEndsItAndAllThatItStarted) {
  const testing::TempDir folder;
  const auto file = folder / "child";
  LineProcess process(
      shell("sleep 1000 & echo $! > '" + file.string() + "'; echo busy >&2; sleep 1000"));
  const auto start = steady_clock::now();
  EXPECT_ERROR(process.ask("x", milliseconds(300)), PeerError, "deadline",
               "test program: expected an answer within 0.3 s, got none (the end of its stderr: "
               "busy)");
  EXPECT_LT(steady_clock::now() - start, std::chrono::seconds(10));
  EXPECT_FALSE(process.is_running());
  EXPECT_TRUE(ends_soon(std::stoi(read_file(file))));
}

TEST(LineProcess, IsStartedAgainAfterItHasFailed) {
  const testing::TempDir folder;
  const std::string mark = (folder / "mark").string();
  LineProcess process(shell("read -r line; if [ -e '" + mark +
                            "' ]; then echo again; else touch '" + mark +
                            "'; echo no use >&2; exit 7; fi"));
  EXPECT_ERROR(process.ask("x", kLong), PeerError, "program-failed",
               "expected an answer, got exit code 7 (the end of its stderr: no use)");
  EXPECT_EQ(process.ask("x", kLong), "again");
}

TEST(LineProcess, TellsHowItEnded) {
  LineProcess deaf(shell("exec <&-; sleep 0.2; exit 5"));
  EXPECT_ERROR(deaf.ask(std::string(size_t{1} << 20, 'x'), kLong), PeerError, "program-failed",
               "got exit code 5");
  LineProcess process(shell("kill -9 $$"));
  EXPECT_ERROR(process.ask("x", kLong), PeerError, "program-failed", "got signal 9");
  LineProcess closed(shell("exec >&-; sleep 1000"));
  EXPECT_ERROR(closed.ask("x", kLong), PeerError, "program-failed", "got the end of its stdout");
  LineProcess missing({.name = "reward none", .arguments = {"/no/such/program"}});
  EXPECT_ERROR(missing.ask("x", kLong), PeerError, "program-failed",
               "reward none: expected to start /no/such/program, got No such file");
  LineProcess misspelt(shell("no-such-command"));
  EXPECT_ERROR(misspelt.ask("x", kLong), PeerError, "program-failed", "not found");
}

TEST(LineProcess, EndsWhatAnEndedProgramLeft) {
  LineProcess process(shell("sleep 1000 >/dev/null 2>&1 & echo $!; exit 0"));
  const pid_t left = std::stoi(process.ask("x", kLong));
  EXPECT_TRUE(exists(left));
  EXPECT_ERROR(process.ask("x", kLong), PeerError, "program-failed", "got exit code 0");
  EXPECT_TRUE(ends_soon(left));
}

TEST(LineProcess, CutsOffAFlood) {
  LineProgram program = shell("tr '\\0' x < /dev/zero");
  program.longest_line = 1 << 20;
  LineProcess process(program);
  EXPECT_ERROR(process.ask("x", kLong), PeerError, "program-failed",
               "expected an answer of one line of at most 1048576 bytes, got more");
  EXPECT_FALSE(process.is_running());
}

TEST(LineProcess, AFullStderrHoldsNothingUp) {
  LineProcess process(
      shell("while read -r line; do head -c 300000 /dev/zero | tr '\\0' e >&2; echo ok; done"));
  EXPECT_EQ(process.ask("x", kLong), "ok");
  EXPECT_EQ(process.ask("x", kLong), "ok");
  EXPECT_GT(process.take_stderr().size(), 1000u);
  EXPECT_LE(process.take_stderr().size(), size_t{64} << 10);
}

TEST(LineProcess, IsCancelled) {
  LineProcess process(shell("sleep 1000"));
  int asked = 0;
  EXPECT_ERROR(process.ask("x", kLong, [&] { return ++asked > 2; }), InterruptedError,
               "interrupted", "got a cancellation");
  EXPECT_FALSE(process.is_running());
}

TEST(LineProcess, LeavesNoZombieAndNoGroup) {
  pid_t process = 0;
  {
    LineProcess stubborn(shell("trap '' TERM; sleep 1000 & wait; sleep 1000"));
    stubborn.start();
    process = stubborn.process();
    EXPECT_EQ(::getpgid(process), process);
    EXPECT_NE(::getpgid(process), ::getpgrp());
  }
  EXPECT_EQ(::waitpid(process, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
  // What it had started is reaped by the system's first process.
  EXPECT_TRUE(ends_soon(-process));
}

TEST(LineProcess, GetsVariablesAndNoFilesOfOurs) {
  LineProgram program = shell("read -r line; echo \"$ANSWER $(ls /proc/self/fd | wc -l)\"");
  program.variables = {{"ANSWER", "42"}};
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  // stdin, stdout, stderr and the folder that ls reads.
  EXPECT_EQ(LineProcess(program).ask("x", kLong), "42 4");
  ::close(pipe[0]);
  ::close(pipe[1]);
}

// A second Ctrl-C ends this process without destructors.
TEST(LineProcess, EndsWithAProcessThatIsEndedAtOnce) {
  LineProcess process(shell("sleep 1000"));
  process.start();
  end_line_processes();
  EXPECT_ERROR(process.ask("x", kLong), PeerError, "program-failed", "got signal 9");
}

}  // namespace
}  // namespace lockstep
