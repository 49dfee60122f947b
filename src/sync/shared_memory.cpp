// SPDX-License-Identifier: Apache-2.0
#include "sync/shared_memory.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <string_view>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "sync/secret.h"

namespace lockstep::sync {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFolder = "/dev/shm/";
constexpr std::string_view kPrefix = "lockstep-";

[[noreturn]] void refuse(const std::string& where, const std::string& expected, int error) {
  fail<IoError>("no-shared-memory", where, "expected {}, got: {}", expected, std::strerror(error));
}

bool is_name(std::string_view name) {
  return name.starts_with(kPrefix) && is_hex_128(name.substr(kPrefix.size()));
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
  block->name_ = std::string(kPrefix) + random_secret();
  const std::string path = kFolder + block->name_;
  block->descriptor_ =
      ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (block->descriptor_ < 0) refuse(path, "a block of shared memory", errno);
  block->is_maker_ = true;
  if (::flock(block->descriptor_, LOCK_EX | LOCK_NB) != 0) refuse(path, "a lock on it", errno);
  block->take_room(bytes, path);
  return block;
}

std::shared_ptr<SharedMemory> SharedMemory::create_nameless(size_t bytes) {
  std::shared_ptr<SharedMemory> block(new SharedMemory);
  block->descriptor_ = ::memfd_create("lockstep", MFD_CLOEXEC);
  if (block->descriptor_ < 0) refuse("memory", "a file in memory", errno);
  block->take_room(bytes, "memory");
  return block;
}

void SharedMemory::take_room(size_t bytes, const std::string& where) {
  // Without room taken beforehand, a full memory would kill whoever writes.
  const int error = ::posix_fallocate(descriptor_, 0, static_cast<off_t>(bytes));
  if (error) refuse(where, fmt::format("room for {} bytes", bytes), error);
  map(bytes, /*is_writable=*/true);
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
