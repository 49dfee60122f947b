// Files: whole reads, memory maps, and writes that are there whole or not at all.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

/// The bytes of a file. Throws IoError "unreadable-file" naming the path.
std::string read_file(const std::filesystem::path& path);

/// A file mapped read-only; the bytes live as long as this object. Move-only.
class MappedFile {
 public:
  /// Throws IoError. An empty file maps to an empty span.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }
  /// Takes what has been read out of this process's memory, where the system agrees; reading it
  /// again brings it back.
  void release_pages() const;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// Whether an output of this name has nothing to replace: a device, a pipe, or the system's name of
/// a file that is open already (/dev/stdout, whatever the shell put behind it).
bool is_written_in_place(const std::filesystem::path& path);

/// A file that appears under its name only by commit(): temporary name in the same folder, fsync,
/// rename.
///
/// Destroyed without commit, it leaves nothing; what a process that is gone left for the same name
/// is removed first: the writer of a temporary file holds a lock on it, wherever it runs. A path
/// that is_written_in_place() is written directly. Throws IoError "unwritable-output" (which names
/// the final path and errno, a full disk included) from constructor, write and commit. Not
/// thread-safe.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(const void* bytes, size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Writes at byte `offset` of the file, wherever write() stands.
  void write_at(size_t offset, const void* bytes, size_t size);
  /// Makes the file `size` bytes long; new bytes are zero.
  void resize(size_t size);
  void commit();

 private:
  bool make_temporary();

  std::filesystem::path path_, temporary_;
  int descriptor_ = -1;
};

/// A file that is there already, into which several processes write, each its own bytes. Throws
/// IoError "unwritable-output".
class FileParts {
 public:
  explicit FileParts(std::filesystem::path path);
  ~FileParts();
  FileParts(const FileParts&) = delete;
  FileParts& operator=(const FileParts&) = delete;
  /// Writes at byte `offset`.
  void write_at(size_t offset, const void* bytes, size_t size);
  /// Returns when what was written is on the disk.
  void commit();

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

/// Writes `text` as the whole file, atomically.
void write_file(const std::filesystem::path& path, std::string_view text);

/// Removes a file or folder so that nobody ever finds half of it under its name: it is renamed
/// first. Of a link only the link is removed. Does nothing if nothing has that name. Throws IoError
/// "unwritable-output".
void remove_whole(const std::filesystem::path& path);

/// The name for which a temporary name (AtomicFile, AtomicDirectory, remove_whole) was made; "" for
/// a name that is not temporary.
std::string name_of_temporary(std::string_view name);

/// Removes a temporary file or folder, unless the process that writes it lives.
void remove_if_abandoned(const std::filesystem::path& temporary);

/// A directory that appears under its name only by commit(): filled under a temporary name beside
/// it, then renamed.
///
/// Folders above it are made. Destroyed without commit, it, everything in it and the folders made
/// above it are removed; what a process that is gone left is removed as by AtomicFile. With
/// `replace`, an existing directory of that name is swapped out at commit and removed after. Throws
/// IoError "unwritable-output".
class AtomicDirectory {
 public:
  explicit AtomicDirectory(std::filesystem::path path, bool replace = false);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;
  /// Where to write until commit().
  const std::filesystem::path& staging() const { return staging_; }
  /// fsyncs files and folder, then renames.
  void commit();

 private:
  bool make_staging();
  void remove_made_parents();

  std::filesystem::path path_, staging_;
  /// Holds the lock that says that this process lives.
  int descriptor_ = -1;
  /// The innermost first.
  std::vector<std::filesystem::path> made_parents_;
  bool replace_ = false;
};

/// A file that is appended to line by line and can be cut back: logging.jsonl, completions.jsonl.
///
/// Each line is flushed to the system before append() returns. Throws IoError "unwritable-output".
class LineFile {
 public:
  /// Opens for appending; creates the file if it is missing.
  explicit LineFile(std::filesystem::path path);
  ~LineFile();
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;
  void append(std::string_view line);
  /// Appends bytes as they are, all or none.
  void append_bytes(std::string_view bytes);
  /// Calls fsync.
  void sync();
  /// The bytes in the file now. A checkpoint records them, for truncate() on resume.
  int64_t size() const;
  void truncate(int64_t size);

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace lockstep
