// SPDX-License-Identifier: Apache-2.0
#include "base/directory_lock.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <climits>

#include "base/check.h"
#include "base/log.h"

namespace lockstep {
namespace {

std::string host_name() {
  char name[HOST_NAME_MAX + 1] = {};
  return ::gethostname(name, sizeof(name) - 1) == 0 ? name : "unknown";
}

/// The first line of an open file: who holds the lock.
std::string read_holder(int descriptor) {
  char text[256];
  const ssize_t count = ::pread(descriptor, text, sizeof(text), 0);
  const std::string_view line(text, count > 0 ? static_cast<size_t>(count) : 0);
  return line.empty() ? "another process" : std::string(line.substr(0, line.find('\n')));
}

/// Tries flock without waiting for a holder; waits for a process that only looks (check_free).
/// Returns false with errno set.
bool lock_soon(int descriptor) {
  for (int tries = 0;; ++tries) {
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) return true;
    if (errno != EWOULDBLOCK || tries == 10) return false;
    ::usleep(10'000);
  }
}

[[noreturn]] void fail_locked(const std::filesystem::path& directory,
                              std::string_view where,
                              const std::string& holder) {
  fail<ConfigError>("output-locked", where,
                    "expected a folder that nobody else writes, got {}, which {} writes",
                    directory.string(), holder);
}

}  // namespace

void DirectoryLock::check_free(const std::filesystem::path& directory, std::string_view where) {
  const int descriptor = ::open((directory / kFileName).c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (descriptor < 0) return;
  const bool is_held = ::flock(descriptor, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  const std::string holder = read_holder(descriptor);
  ::close(descriptor);
  if (is_held) fail_locked(directory, where, holder);
}

DirectoryLock::DirectoryLock(const std::filesystem::path& directory, std::string_view where)
    : directory_(directory), path_(directory / kFileName) {
  // A holder that ends removes the file, and a lock on a removed file locks nothing.
  while (!take(where)) {
  }
}

/// Returns false if the file was removed meanwhile.
bool DirectoryLock::take(std::string_view where) {
  descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (descriptor_ < 0)
    fail<IoError>("unwritable-output", path_.string(), "expected to open it, got {}",
                  std::strerror(errno));
  if (!lock_soon(descriptor_)) {
    const int error = errno;
    const std::string holder = read_holder(descriptor_);
    ::close(std::exchange(descriptor_, -1));
    if (error == EWOULDBLOCK) fail_locked(directory_, where, holder);
    log_warning(
        "{}: the file system has no locks ({}): nothing stops a second run from writing here",
        path_.string(), std::strerror(error));
    return true;
  }
  struct stat locked = {}, named = {};
  if (::fstat(descriptor_, &locked) != 0 || ::stat(path_.c_str(), &named) != 0 ||
      locked.st_ino != named.st_ino || locked.st_dev != named.st_dev) {
    ::close(std::exchange(descriptor_, -1));
    return false;
  }
  const std::string holder = fmt::format("process {} on {}\n", ::getpid(), host_name());
  if (::ftruncate(descriptor_, 0) != 0 ||
      ::pwrite(descriptor_, holder.data(), holder.size(), 0) < 0)
    // The lock still holds; only the text that names its holder is missing.
    log_debug("{}: {}", path_.string(), std::strerror(errno));
  return true;
}

DirectoryLock::~DirectoryLock() {
  if (descriptor_ < 0) return;
  ::unlink(path_.c_str());
  ::close(descriptor_);
}

}  // namespace lockstep
