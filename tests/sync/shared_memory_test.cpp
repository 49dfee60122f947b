// SPDX-License-Identifier: Apache-2.0
#include "sync/shared_memory.h"

#include <cstring>
#include <filesystem>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "tests/support/expect_error.h"

namespace lockstep::sync {
namespace {

namespace fs = std::filesystem;

fs::path path_of(const std::string& name) { return "/dev/shm/" + name; }

TEST(SharedMemory, WhatIsWrittenIsReadThroughAnotherMapping) {
  const auto block = SharedMemory::create(5000);
  EXPECT_EQ(block->bytes().size(), 5000u);
  const auto other = SharedMemory::open(block->name(), 5000);
  EXPECT_EQ(other->bytes()[4999], std::byte{0});
  block->bytes()[4999] = std::byte{7};
  EXPECT_EQ(other->bytes()[4999], std::byte{7});
  EXPECT_EQ(fs::status(path_of(block->name())).permissions(),
            fs::perms::owner_read | fs::perms::owner_write);
}

TEST(SharedMemory, TheNameGoesWithItsMakerAndTheBytesWithTheLastReader) {
  auto block = SharedMemory::create(16);
  const std::string name = block->name();
  block->bytes()[3] = std::byte{9};
  const auto reader = SharedMemory::open(name, 16);
  block.reset();
  EXPECT_FALSE(fs::exists(path_of(name)));
  EXPECT_EQ(reader->bytes()[3], std::byte{9});
  EXPECT_ERROR(SharedMemory::open(name, 16), IoError, "no-shared-memory", "No such file");
}

TEST(SharedMemory, OtherNamesAndSizesAreRefused) {
  const auto block = SharedMemory::create(16);
  EXPECT_ERROR(SharedMemory::open(block->name(), 17), IoError, "no-shared-memory",
               "expected 17 bytes, got 16");
  for (const std::string& name :
       {std::string("../../etc/passwd"), std::string(), block->name() + "0",
        "lockstep-" + std::string(32, 'g'), "other" + block->name().substr(5)})
    EXPECT_ERROR(SharedMemory::open(name, 16), IoError, "no-shared-memory", "the name of a block");
}

TEST(SharedMemory, MoreThanThereIsIsRefusedAtOnce) {
  const auto before = fs::space("/dev/shm").available;
  EXPECT_ERROR(SharedMemory::create(fs::space("/dev/shm").capacity + (size_t{1} << 30)), IoError,
               "no-shared-memory", "expected room for");
  EXPECT_NEAR(static_cast<double>(fs::space("/dev/shm").available), static_cast<double>(before),
              1 << 28);
}

TEST(SharedMemory, WhatAKilledProcessLeftIsRemovedAndNothingElse) {
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto block = SharedMemory::create(16);
    const ssize_t written = ::write(pipe_ends[1], block->name().data(), block->name().size());
    ::_exit(written > 0 ? 0 : 1);  // No destructor runs.
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  std::string name(41, '\0');
  ASSERT_EQ(::read(pipe_ends[0], name.data(), name.size()), 41);
  ::close(pipe_ends[0]);
  ::close(pipe_ends[1]);
  EXPECT_TRUE(fs::exists(path_of(name)));
  const fs::path mine = path_of("lockstep-of-a-user");
  write_file(mine, "x");
  const auto first = SharedMemory::create(16), second = SharedMemory::create(16);
  EXPECT_FALSE(fs::exists(path_of(name)));
  EXPECT_TRUE(fs::exists(path_of(first->name())));
  EXPECT_TRUE(fs::exists(mine));
  fs::remove(mine);
}

}  // namespace
}  // namespace lockstep::sync
