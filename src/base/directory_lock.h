// Makes sure that a directory has one writer at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string_view>

namespace lockstep {

/// The lock of a directory's one writer: flock on the file `.lockstep.lock` in it, which says host
/// and process. The system releases it when the process ends, however it ends, so that a lock file
/// of a process that is gone holds nobody up. Where the file system knows no locks, a warning says
/// so and nothing is held. Not thread-safe.
class DirectoryLock {
 public:
  static constexpr const char* kFileName = ".lockstep.lock";

  /// Throws ConfigError "output-locked" as the constructor does, and makes no file.
  static void check_free(const std::filesystem::path& directory, std::string_view where);

  /// Takes the lock of an existing directory. Throws ConfigError "output-locked" at `where` naming
  /// who holds it; IoError "unwritable-output".
  DirectoryLock(const std::filesystem::path& directory, std::string_view where);
  /// Releases it and removes the file.
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

  const std::filesystem::path& directory() const { return directory_; }

 private:
  bool take(std::string_view where);

  std::filesystem::path directory_, path_;
  int descriptor_ = -1;
};

}  // namespace lockstep
