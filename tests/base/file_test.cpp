// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <fcntl.h>
#include <optional>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep {
namespace {

using lockstep::testing::slurp;
using lockstep::testing::TempDir;
using Names = std::set<std::string>;

/// Makes writes past `bytes` of a file fail with EFBIG while it lives, as a full disk would in the
/// middle of a write.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

TEST(File, ReadsWholeFilesAndNamesThoseItCannotRead) {
  TempDir dir;
  const std::string text(3 << 20, 'x');
  EXPECT_EQ(read_file(dir.write("large", text)), text);
  EXPECT_EQ(read_file(dir.write("empty", "")), "");
  EXPECT_ERROR(read_file(dir / "none"), IoError, "unreadable-file",
               "none: expected a readable file, got No such file or directory");
  EXPECT_ERROR(read_file(dir.path()), IoError, "unreadable-file", "Is a directory");
  EXPECT_ERROR(MappedFile(dir / "none"), IoError, "unreadable-file", "No such file");
  EXPECT_ERROR(MappedFile(dir.path()), IoError, "unreadable-file", "Is a directory");
  EXPECT_ERROR(MappedFile("/dev/null"), IoError, "unreadable-file", "Invalid argument");
}

TEST(File, MapsBytesAndMovesTheMapping) {
  TempDir dir;
  MappedFile file(dir.write("data", "abc"));
  MappedFile moved(std::move(file));
  EXPECT_EQ(file.bytes().size(), 0u);
  ASSERT_EQ(moved.bytes().size(), 3u);
  EXPECT_EQ(static_cast<char>(moved.bytes()[2]), 'c');
  MappedFile other(dir.write("empty", ""));
  EXPECT_TRUE(other.bytes().empty());
  other = std::move(moved);
  EXPECT_EQ(other.bytes().size(), 3u);
}

TEST(AtomicFile, AppearsOnlyByCommit) {
  TempDir dir;
  {
    AtomicFile file(dir / "out");
    file.write("half");
    EXPECT_FALSE(std::filesystem::exists(dir / "out"));
    EXPECT_EQ(dir.names().size(), 1u);
  }
  EXPECT_EQ(dir.names(), Names{});
  dir.write("out", "old");
  {
    AtomicFile file(dir / "out");
    file.write("new");
    EXPECT_EQ(slurp(dir / "out"), "old");
    file.commit();
  }
  EXPECT_EQ(slurp(dir / "out"), "new");
  EXPECT_EQ(dir.names(), Names{"out"});
}

TEST(AtomicFile, FullDiskNamesPathAndSizeAndLeavesNothing) {
  TempDir dir;
  EXPECT_ERROR(write_file("/dev/full", "12345"), IoError, "unwritable-output",
               "/dev/full: expected to write 5 bytes, got No space left on device");
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/full"));
  FileSizeLimit limit(1000);
  EXPECT_ERROR(write_file(dir / "out", std::string(2000, 'x')), IoError, "unwritable-output",
               "out: expected to write 2000 bytes, got File too large");
  EXPECT_EQ(dir.names(), Names{});
}

TEST(AtomicFile, RefusesWhatCannotBeAFile) {
  TempDir dir;
  EXPECT_ERROR(AtomicFile(dir.path()), IoError, "unwritable-output", "Is a directory");
  EXPECT_ERROR(AtomicFile(dir / "none/out"), IoError, "unwritable-output",
               "none/out: expected to create it, got No such file or directory");
  dir.write("file", "");
  EXPECT_ERROR(AtomicFile(dir / "file/out"), IoError, "unwritable-output", "Not a directory");
}

TEST(AtomicFile, RemovesWhatAKilledProcessLeftAndNothingElse) {
  TempDir dir;
  const pid_t child = ::fork();
  if (child == 0) {
    AtomicFile file(dir / "out");
    AtomicDirectory folder(dir / "run");
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(dir.names().size(), 2u);
  dir.write(".out.tmp-notes", "of nobody");
  write_file(dir / "out", "x");
  AtomicDirectory(dir / "run").commit();
  EXPECT_EQ(dir.names(), (Names{".out.tmp-notes", "out", "run"}));
}

/// A process number says nothing in another container, on another machine, or after it was given
/// out anew: a process that lives holds a lock on what it writes.
TEST(AtomicFile, LeavesWhatAnotherProcessIsWriting) {
  TempDir dir;
  int ready[2], done[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(done), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    AtomicFile file(dir / "out");
    AtomicDirectory folder(dir / "run");
    file.write("of the first");
    write_file(folder.staging() / "file", "of the first");
    char byte = 'x';
    if (::write(ready[1], &byte, 1) != 1 || ::read(done[0], &byte, 1) != 1) ::_exit(1);
    file.commit();
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  const Names before = dir.names();
  ASSERT_EQ(before.size(), 2u);
  {
    // Another writer of the same names sees them in use, whatever their process number says.
    AtomicFile file(dir / "out");
    AtomicDirectory folder(dir / "run");
    EXPECT_EQ(dir.names().size(), 4u);
  }
  EXPECT_EQ(dir.names(), before);
  ASSERT_EQ(::write(done[1], "x", 1), 1);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(slurp(dir / "out"), "of the first");
  // The folder, which the process left without commit, has no living writer now.
  { AtomicDirectory folder(dir / "run"); }
  EXPECT_EQ(dir.names(), Names{"out"});
}

/// A container gives every process the number 1: what the last one left has the very name that the
/// next one would take.
TEST(AtomicFile, ALeftoverOfItsOwnNumberDoesNotStopIt) {
  TempDir dir;
  const pid_t child = ::fork();
  if (child == 0) {
    for (int count = 0; count < 40; ++count) {
      const std::string end = ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(count);
      dir.write(".out" + end, "left");
      std::filesystem::create_directories(dir / (".run" + end));
    }
    write_file(dir / "out", "x");
    AtomicDirectory(dir / "run").commit();
    ::_exit(dir.names() == Names{"out", "run"} ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

/// What /dev/stdout is: a link to the system's name of a file that is open.
TEST(AtomicFile, WritesThroughTheNameOfAnOpenFile) {
  TempDir dir;
  dir.write("out", "before\n");
  EXPECT_FALSE(is_written_in_place(dir / "out"));
  EXPECT_FALSE(is_written_in_place(dir / "none"));
  EXPECT_TRUE(is_written_in_place("/dev/null"));
  const int descriptor = ::open((dir / "out").c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  const std::string name = "/dev/fd/" + std::to_string(descriptor);
  EXPECT_TRUE(is_written_in_place(name));
  write_file(name, "after\n");
  ::close(descriptor);
  EXPECT_EQ(slurp(dir / "out"), "before\nafter\n");
  EXPECT_EQ(dir.names(), Names{"out"});
}

TEST(RemoveIfAbandoned, AsksWhetherTheWriterLives) {
  TempDir dir;
  dir.write(".out.tmp-1-0", "of one that is gone");
  std::filesystem::create_directory_symlink("nowhere", dir / ".last.tmp-0");
  const AtomicDirectory folder(dir / "run");
  for (const std::string& name : dir.names()) remove_if_abandoned(dir / name);
  EXPECT_EQ(dir.names(), Names{folder.staging().filename().string()});
}

TEST(RemoveWhole, TakesFilesFoldersAndLinksAndNotWhatLinksPointTo) {
  TempDir dir;
  std::filesystem::create_directories(dir / "run/sub");
  dir.write("run/sub/file", "x");
  dir.write("file", "x");
  std::filesystem::create_directory_symlink("run", dir / "link");
  remove_whole(dir / "link");
  EXPECT_EQ(slurp(dir / "run/sub/file"), "x");
  remove_whole(dir / "file");
  remove_whole(dir / "none");
  EXPECT_EQ(dir.names(), Names{"run"});
  remove_whole(dir / "run");
  EXPECT_EQ(dir.names(), Names{});
}

TEST(NameOfTemporary, IsTheNameThatItWasMadeFor) {
  EXPECT_EQ(name_of_temporary(".checkpoint-3.tmp-17-0"), "checkpoint-3");
  EXPECT_EQ(name_of_temporary(".a.tmp-b.tmp-1-2"), "a.tmp-b");
  for (const char* other : {"checkpoint-3", "a.tmp-1-2", ".tmp-1-2", ".a.tmp-", ".a.tmp-x", ".a"})
    EXPECT_EQ(name_of_temporary(other), "") << other;
}

TEST(AtomicDirectory, AppearsOnlyByCommit) {
  TempDir dir;
  {
    AtomicDirectory folder(dir / "a/b/run");
    std::filesystem::create_directory(folder.staging() / "sub");
    write_file(folder.staging() / "sub/file", "x");
    EXPECT_FALSE(std::filesystem::exists(dir / "a/b/run"));
    folder.commit();
  }
  EXPECT_EQ(slurp(dir / "a/b/run/sub/file"), "x");
  {
    AtomicDirectory folder(dir / "other/");
    write_file(folder.staging() / "file", "x");
  }
  EXPECT_EQ(dir.names(), Names{"a"});
}

TEST(AtomicDirectory, TakesBackTheFoldersItMadeAbove) {
  TempDir dir;
  { AtomicDirectory folder(dir / "a/b/run"); }
  EXPECT_EQ(dir.names(), Names{});
  {
    AtomicDirectory folder(dir / "a/b/run");
    write_file(dir / "a/other", "of somebody else");
  }
  EXPECT_EQ(dir.names(), Names{"a"});
  EXPECT_FALSE(std::filesystem::exists(dir / "a/b"));
}

TEST(AtomicDirectory, SpeaksOfItsFilesByTheirFinalNames) {
  TempDir dir;
  AtomicDirectory folder(dir / "run");
  FileSizeLimit limit(1000);
  EXPECT_ERROR(write_file(folder.staging() / "out", std::string(2000, 'x')), IoError,
               "unwritable-output", "/run/out: expected to write 2000 bytes");
}

TEST(AtomicDirectory, ReplacesOnlyWhenAskedTo) {
  TempDir dir;
  std::filesystem::create_directory(dir / "run");
  write_file(dir / "run/old", "");
  {
    AtomicDirectory folder(dir / "run");
    EXPECT_ERROR(folder.commit(), IoError, "unwritable-output", "Directory not empty");
  }
  EXPECT_EQ(dir.names(), Names{"run"});
  EXPECT_TRUE(std::filesystem::exists(dir / "run/old"));
  {
    AtomicDirectory folder(dir / "run/", /*replace=*/true);
    write_file(folder.staging() / "new", "");
    folder.commit();
  }
  EXPECT_EQ(dir.names(), Names{"run"});
  EXPECT_TRUE(std::filesystem::exists(dir / "run/new"));
  EXPECT_FALSE(std::filesystem::exists(dir / "run/old"));
}

TEST(AtomicDirectory, FillsAnEmptyFolder) {
  TempDir dir;
  std::filesystem::create_directory(dir / "run");
  AtomicDirectory folder(dir / "run");
  write_file(folder.staging() / "file", "x");
  folder.commit();
  EXPECT_EQ(slurp(dir / "run/file"), "x");
}

TEST(LineFile, AppendsAndCutsBack) {
  TempDir dir;
  {
    LineFile file(dir / "log");
    file.append("one");
    const int64_t size = file.size();
    file.append("two");
    EXPECT_EQ(slurp(dir / "log"), "one\ntwo\n");
    file.truncate(size);
    file.append("three");
    file.sync();
    EXPECT_ERROR(file.truncate(1000), IoError, "unwritable-output",
                 "expected at least 1000 bytes to cut back to, got 10");
  }
  LineFile(dir / "log").append("four");
  EXPECT_EQ(slurp(dir / "log"), "one\nthree\nfour\n");
  EXPECT_ERROR(LineFile(dir / "none/log"), IoError, "unwritable-output", "No such file");
}

TEST(LineFile, TakesBackHalfALineOfAFullDisk) {
  TempDir dir;
  LineFile file(dir / "log");
  file.append("one");
  FileSizeLimit limit(6);
  EXPECT_ERROR(file.append("two"), IoError, "unwritable-output",
               "log: expected to append 4 bytes, got File too large");
  EXPECT_EQ(slurp(dir / "log"), "one\n");
  EXPECT_ERROR(LineFile("/dev/full").append("x"), IoError, "unwritable-output",
               "/dev/full: expected to append 2 bytes");
}

}  // namespace
}  // namespace lockstep
