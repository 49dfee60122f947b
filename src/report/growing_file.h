// Reads the lines of a file that somebody may be writing, and cutting back, at the same time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace lockstep::report {

/// A log that grows by whole lines: each call reads what has come since the last one. A run that is
/// resumed cuts its logs back to the checkpoint; then everything is read again. Not thread-safe.
class GrowingFile {
 public:
  explicit GrowingFile(std::filesystem::path path) : path_(std::move(path)) {}

  /// A line without its end, and the byte of the file where it begins.
  using OnLine = std::function<void(std::string_view line, int64_t offset)>;
  /// Calls `on_line` for each new line; before that `on_restart` if what was read is no longer
  /// there. A last line without its end is left for the next call. A file that is not there yet
  /// has no lines. Throws IoError "unreadable-file".
  void read(const std::function<void()>& on_restart, const OnLine& on_line);

  const std::filesystem::path& path() const { return path_; }

 private:
  bool is_continued(int descriptor, int64_t size, uint64_t inode) const;

  std::filesystem::path path_;
  /// Everything before it has been read.
  int64_t offset_ = 0;
  uint64_t inode_ = 0;
  /// The last bytes before `offset_`, by which a file that was cut back and has grown again is
  /// known.
  std::string tail_;
};

}  // namespace lockstep::report
