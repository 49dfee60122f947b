// SPDX-License-Identifier: Apache-2.0
#include "base/directory_lock.h"

#include <optional>
#include <signal.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep {
namespace {

using lockstep::testing::TempDir;
using Names = std::set<std::string>;

/// A process that holds the lock of `directory` until it is killed.
pid_t start_holder(const std::filesystem::path& directory) {
  int ready[2];
  if (::pipe(ready) != 0) return -1;
  const pid_t child = ::fork();
  if (child == 0) {
    const DirectoryLock lock(directory, "--output_dir");
    if (::write(ready[1], "x", 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  char byte = 0;
  const bool is_ready = ::read(ready[0], &byte, 1) == 1;
  ::close(ready[0]);
  ::close(ready[1]);
  return is_ready ? child : -1;
}

TEST(DirectoryLock, ASecondWriterIsToldWhoHoldsIt) {
  TempDir dir;
  const pid_t holder = start_holder(dir.path());
  ASSERT_GT(holder, 0);
  const std::string words = "process " + std::to_string(holder) + " on ";
  EXPECT_ERROR(DirectoryLock(dir.path(), "--output_dir"), ConfigError, "output-locked",
               "--output_dir: expected a folder that nobody else writes");
  EXPECT_ERROR(DirectoryLock(dir.path(), "--output_dir"), ConfigError, "output-locked", words);
  EXPECT_ERROR(DirectoryLock::check_free(dir.path(), "--output_dir"), ConfigError, "output-locked",
               words);
  ::kill(holder, SIGKILL);
  ::waitpid(holder, nullptr, 0);
  // What it left behind is no lock.
  EXPECT_EQ(dir.names(), Names{".lockstep.lock"});
  EXPECT_NO_THROW(DirectoryLock::check_free(dir.path(), "--output_dir"));
  EXPECT_NO_THROW(DirectoryLock(dir.path(), "--output_dir"));
  EXPECT_EQ(dir.names(), Names{});
}

TEST(DirectoryLock, IsOfTheFileAndNotOfTheProcess) {
  TempDir dir;
  std::optional<DirectoryLock> lock(std::in_place, dir.path(), "--output_dir");
  EXPECT_ERROR(DirectoryLock(dir.path(), "--output_dir"), ConfigError, "output-locked",
               "process " + std::to_string(::getpid()) + " on ");
  EXPECT_EQ(dir.names(), Names{".lockstep.lock"});
  lock.reset();
  EXPECT_EQ(dir.names(), Names{});
  EXPECT_NO_THROW(DirectoryLock(dir.path(), "--output_dir"));
}

TEST(DirectoryLock, ALookMakesNoFile) {
  TempDir dir;
  EXPECT_NO_THROW(DirectoryLock::check_free(dir.path(), "--output_dir"));
  EXPECT_NO_THROW(DirectoryLock::check_free(dir / "none", "--output_dir"));
  EXPECT_EQ(dir.names(), Names{});
  EXPECT_ERROR(DirectoryLock(dir / "none", "--output_dir"), IoError, "unwritable-output",
               ".lockstep.lock");
}

}  // namespace
}  // namespace lockstep
