// SPDX-License-Identifier: Apache-2.0
#include "sync/shared_memory.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <string_view>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"

namespace lockstep::sync {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFolder = "/dev/shm/";
constexpr std::string_view kPrefix = "lockstep-";
constexpr size_t kTokenBytes = 16;

[[noreturn]] void refuse(const std::string& where, const std::string& expected, int error) {
  fail<IoError>("no-shared-memory", where, "expected {}, got: {}", expected, std::strerror(error));
}

bool is_name(std::string_view name) {
  return name.size() == kPrefix.size() + 2 * kTokenBytes && name.starts_with(kPrefix) &&
         name.find_first_not_of("0123456789abcdef", kPrefix.size()) == std::string_view::npos;
}

std::string random_name() {
  std::array<unsigned char, kTokenBytes> token;
  size_t filled = 0;
  while (filled < token.size()) {
    const ssize_t got = ::getrandom(token.data() + filled, token.size() - filled, 0);
    if (got < 0 && errno != EINTR) refuse(kFolder, "random bytes for a name", errno);
    if (got > 0) filled += static_cast<size_t>(got);
  }
  std::string name(kPrefix);
  for (const unsigned char byte : token) name += fmt::format("{:02x}", byte);
  return name;
}

/// Removes the blocks of makers that are gone. Those of other users cannot be opened.
void remove_abandoned() {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(kFolder, ignored)) {
    if (!is_name(entry.path().filename().string())) continue;
    const int descriptor = ::open(entry.path().c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (descriptor < 0) continue;
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) ::unlink(entry.path().c_str());
    ::close(descriptor);
  }
}

}  // namespace

std::shared_ptr<SharedMemory> SharedMemory::create(size_t bytes) {
  remove_abandoned();
  std::shared_ptr<SharedMemory> block(new SharedMemory);
  block->name_ = random_name();
  const std::string path = kFolder + block->name_;
  block->descriptor_ =
      ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (block->descriptor_ < 0) refuse(path, "a block of shared memory", errno);
  block->is_maker_ = true;
  if (::flock(block->descriptor_, LOCK_EX | LOCK_NB) != 0) refuse(path, "a lock on it", errno);
  // Without room taken beforehand, a full memory would kill whoever writes.
  const int error = ::posix_fallocate(block->descriptor_, 0, static_cast<off_t>(bytes));
  if (error) refuse(path, fmt::format("room for {} bytes", bytes), error);
  block->map(bytes, /*is_writable=*/true);
  return block;
}

std::shared_ptr<const SharedMemory> SharedMemory::open(const std::string& name, size_t bytes) {
  if (!is_name(name))
    fail<IoError>(
        "no-shared-memory", name.substr(0, 80),
        "expected the name of a block (lockstep-… of 32 hexadecimal digits), got another");
  std::shared_ptr<SharedMemory> block(new SharedMemory);
  block->name_ = name;
  const std::string path = kFolder + name;
  block->descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (block->descriptor_ < 0) refuse(path, "a block of shared memory", errno);
  struct stat about {};
  if (::fstat(block->descriptor_, &about) != 0) refuse(path, "its size", errno);
  if (about.st_size != static_cast<off_t>(bytes))
    fail<IoError>("no-shared-memory", path, "expected {} bytes, got {}", bytes, about.st_size);
  block->map(bytes, /*is_writable=*/false);
  return block;
}

void SharedMemory::map(size_t bytes, bool is_writable) {
  void* const data = ::mmap(nullptr, bytes, is_writable ? PROT_READ | PROT_WRITE : PROT_READ,
                            MAP_SHARED, descriptor_, 0);
  if (data == MAP_FAILED) refuse(kFolder + name_, fmt::format("{} bytes mapped", bytes), errno);
  data_ = static_cast<std::byte*>(data);
  size_ = bytes;
}

SharedMemory::~SharedMemory() {
  if (data_) ::munmap(data_, size_);
  if (is_maker_) ::unlink((kFolder + name_).c_str());
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace lockstep::sync
