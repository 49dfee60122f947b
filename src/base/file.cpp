// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include "base/check.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

/// Temporary names are `.NAME.tmp-PROCESS-COUNT`.
constexpr std::string_view kTemporaryMark = ".tmp-";

[[noreturn]] void fail_read(const fs::path& path, int error) {
  fail<IoError>("unreadable-file", path.string(), "expected a readable file, got {}",
                std::strerror(error));
}

/// The path that an error names: a file in a folder that still has its temporary name is named as
/// if the folder had its final name already.
fs::path final_name(const fs::path& path) {
  fs::path named;
  for (const fs::path& part : path) {
    const std::string name = name_of_temporary(part.string());
    named /= name.empty() ? part : fs::path(name);
  }
  return named;
}

[[noreturn]] void fail_output(const fs::path& path, std::string_view wanted, int error) {
  fail<IoError>("unwritable-output", final_name(path).string(), "expected to {}, got {}", wanted,
                std::strerror(error));
}

/// Opens a file that is not a directory for reading. Throws IoError.
int open_to_read(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail_read(path, errno);
  struct stat status = {};
  if (::fstat(descriptor, &status) == 0 && !S_ISDIR(status.st_mode)) return descriptor;
  ::close(descriptor);
  fail_read(path, EISDIR);
}

/// Returns the number of bytes read, 0 at the end of the file.
size_t read_some(int descriptor, char* bytes, size_t size, const fs::path& path) {
  for (;;) {
    const ssize_t count = ::read(descriptor, bytes, size);
    if (count >= 0) return static_cast<size_t>(count);
    if (errno != EINTR) fail_read(path, errno);
  }
}

/// Returns 0, or the errno of the write that failed.
int write_all(int descriptor, const char* bytes, size_t size) {
  while (size > 0) {
    const ssize_t count = ::write(descriptor, bytes, size);
    if (count < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    bytes += count;
    size -= static_cast<size_t>(count);
  }
  return 0;
}

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

/// Calls fsync on a file or folder. Throws IoError about `output`.
void sync_path(const fs::path& path, const fs::path& output) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail_output(output, "flush it", errno);
  // EINVAL: the file system cannot fsync folders.
  const int error = ::fsync(descriptor) == 0 || errno == EINVAL ? 0 : errno;
  ::close(descriptor);
  if (error != 0) fail_output(output, "flush it", error);
}

/// Removes what processes that are gone left beside `path` under its temporary names.
void remove_stale_temporaries(const fs::path& path) {
  const std::string wanted = path.filename().string();
  std::error_code ignored;
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(parent_of(path), ignored))
    if (name_of_temporary(entry.path().filename().string()) == wanted)
      found.push_back(entry.path());
  for (const fs::path& temporary : found) remove_if_abandoned(temporary);
}

/// Locks a temporary that this process has just made. Returns false if another process took it for
/// an abandoned one meanwhile; a file system without locks counts as success.
bool hold_temporary(int descriptor, const fs::path& temporary) {
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) return errno != EWOULDBLOCK;
  struct stat made = {}, named = {};
  return ::fstat(descriptor, &made) == 0 && ::lstat(temporary.c_str(), &named) == 0 &&
         made.st_ino == named.st_ino && made.st_dev == named.st_dev;
}

/// Returns a name in the folder of `path` that no other writer uses.
fs::path temporary_for(const fs::path& path) {
  static std::atomic<uint64_t> counter{0};
  return parent_of(path) / fmt::format(".{}{}{}-{}", path.filename().string(), kTemporaryMark,
                                       ::getpid(), counter.fetch_add(1));
}

/// "dir/" and "dir" name the same output.
fs::path without_trailing_slash(fs::path path) {
  return path.has_filename() || !path.has_parent_path() ? path : path.parent_path();
}

/// Exchanges two folders: in one step if the file system can, else in two.
void exchange_folders(const fs::path& staging, const fs::path& path) {
  if (::renameat2(AT_FDCWD, staging.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0) return;
  if (errno != EINVAL && errno != ENOSYS) fail_output(path, "replace the folder", errno);
  const fs::path old = temporary_for(path);
  if (::rename(path.c_str(), old.c_str()) != 0 || ::rename(staging.c_str(), path.c_str()) != 0 ||
      ::rename(old.c_str(), staging.c_str()) != 0)
    fail_output(path, "replace the folder", errno);
}

}  // namespace

std::string read_file(const fs::path& path) {
  const int descriptor = open_to_read(path);
  std::string result;
  try {
    constexpr size_t kChunk = size_t{1} << 20;
    for (;;) {
      const size_t size = result.size();
      result.resize(size + kChunk);
      const size_t count = read_some(descriptor, result.data() + size, kChunk, path);
      result.resize(size + count);
      if (count == 0) break;
    }
  } catch (...) {
    ::close(descriptor);
    throw;
  }
  ::close(descriptor);
  return result;
}

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  const int descriptor = open_to_read(path);
  struct stat status = {};
  int error = ::fstat(descriptor, &status) == 0 ? 0 : errno;
  if (error == 0 && !S_ISREG(status.st_mode)) error = EINVAL;
  if (error == 0 && status.st_size > 0) {
    size_ = static_cast<size_t>(status.st_size);
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (address == MAP_FAILED) {
      error = errno;
    } else {
      data_ = static_cast<const std::byte*>(address);
    }
  }
  ::close(descriptor);
  if (error != 0) fail_read(path, error);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release_pages() const {
  if (data_) ::madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

bool is_written_in_place(const fs::path& path) {
  std::error_code ignored;
  const fs::file_status status = fs::status(path, ignored);
  if (fs::is_character_file(status) || fs::is_fifo(status)) return true;
  if (!fs::is_symlink(path, ignored)) return false;
  const std::string folder = fs::canonical(parent_of(path), ignored).string();
  return folder == "/dev" || folder.starts_with("/proc/");
}

namespace {

void write_all_at(
    int descriptor, size_t offset, const void* bytes, size_t size, const fs::path& path) {
  const auto* from = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t written = ::pwrite(descriptor, from, size, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0)
      fail_output(path, fmt::format("write {} bytes", size), written < 0 ? errno : EIO);
    from += written;
    offset += static_cast<size_t>(written);
    size -= static_cast<size_t>(written);
  }
}

}  // namespace

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) {
  std::error_code ignored;
  if (is_written_in_place(path_)) {
    // What a shell has appended to stays.
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
    if (descriptor_ < 0) fail_output(path_, "open it", errno);
    return;
  }
  const fs::file_status status = fs::status(path_, ignored);
  if (fs::exists(status) && !fs::is_regular_file(status))
    fail_output(path_, "write a file", fs::is_directory(status) ? EISDIR : EINVAL);
  remove_stale_temporaries(path_);
  while (!make_temporary()) {
  }
}

/// Returns false if the name is taken, or if another process removed what was made.
bool AtomicFile::make_temporary() {
  const fs::path temporary = temporary_for(path_);
  descriptor_ = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0 && errno == EEXIST) return false;
  if (descriptor_ < 0) fail_output(path_, "create it", errno);
  if (hold_temporary(descriptor_, temporary)) {
    temporary_ = temporary;
    return true;
  }
  ::unlink(temporary.c_str());
  ::close(std::exchange(descriptor_, -1));
  return false;
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* bytes, size_t size) {
  const int error = write_all(descriptor_, static_cast<const char*>(bytes), size);
  if (error != 0) fail_output(path_, fmt::format("write {} bytes", size), error);
}

void AtomicFile::write_at(size_t offset, const void* bytes, size_t size) {
  write_all_at(descriptor_, offset, bytes, size, path_);
}

void AtomicFile::resize(size_t size) {
  if (::ftruncate(descriptor_, static_cast<off_t>(size)) != 0)
    fail_output(path_, fmt::format("make it {} bytes long", size), errno);
}

void AtomicFile::commit() {
  if (!temporary_.empty() && ::fsync(descriptor_) != 0 && errno != EINVAL)
    fail_output(path_, "flush it", errno);
  if (::close(std::exchange(descriptor_, -1)) != 0) fail_output(path_, "close it", errno);
  if (temporary_.empty()) return;
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail_output(path_, "name it", errno);
  temporary_.clear();
  sync_path(parent_of(path_), path_);
}

FileParts::FileParts(fs::path path)
    : path_(std::move(path)), descriptor_(::open(path_.c_str(), O_WRONLY | O_CLOEXEC)) {
  if (descriptor_ < 0) fail_output(path_, "open it", errno);
}

FileParts::~FileParts() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void FileParts::write_at(size_t offset, const void* bytes, size_t size) {
  write_all_at(descriptor_, offset, bytes, size, path_);
}

void FileParts::commit() {
  if (::fsync(descriptor_) != 0 && errno != EINVAL) fail_output(path_, "flush it", errno);
  if (::close(std::exchange(descriptor_, -1)) != 0) fail_output(path_, "close it", errno);
}

void write_file(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

AtomicDirectory::AtomicDirectory(fs::path path, bool replace)
    : path_(without_trailing_slash(std::move(path))), replace_(replace) {
  std::error_code error;
  for (fs::path above = parent_of(path_); !fs::exists(above, error); above = parent_of(above))
    made_parents_.push_back(above);
  fs::create_directories(parent_of(path_), error);
  if (error) {
    remove_made_parents();
    fail_output(path_, "make its folder", error.value());
  }
  remove_stale_temporaries(path_);
  while (!make_staging()) {
  }
}

/// Returns false if the name is taken, or if another process removed what was made.
bool AtomicDirectory::make_staging() {
  const fs::path staging = temporary_for(path_);
  if (::mkdir(staging.c_str(), 0777) != 0) {
    const int error = errno;
    if (error == EEXIST) return false;
    remove_made_parents();
    fail_output(path_, "make the folder", error);
  }
  descriptor_ = ::open(staging.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor_ >= 0 && hold_temporary(descriptor_, staging)) {
    staging_ = staging;
    return true;
  }
  const int error = descriptor_ < 0 ? errno : ENOENT;
  ::rmdir(staging.c_str());
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
  if (error == ENOENT) return false;
  remove_made_parents();
  fail_output(path_, "open the folder", error);
}

AtomicDirectory::~AtomicDirectory() {
  if (!staging_.empty()) {
    std::error_code ignored;
    fs::remove_all(staging_, ignored);
    remove_made_parents();
  }
  if (descriptor_ >= 0) ::close(descriptor_);
}

/// Removes those that are still empty, the innermost first.
void AtomicDirectory::remove_made_parents() {
  for (const fs::path& parent : made_parents_) ::rmdir(parent.c_str());
}

void AtomicDirectory::commit() {
  LOCKSTEP_CHECK(!staging_.empty(), "{} is committed twice", path_.string());
  for (const auto& entry : fs::recursive_directory_iterator(staging_)) {
    if (entry.is_directory() || entry.is_regular_file()) sync_path(entry.path(), path_);
  }
  sync_path(staging_, path_);
  std::error_code ignored;
  if (replace_ && fs::is_directory(path_, ignored)) {
    exchange_folders(staging_, path_);
    fs::remove_all(staging_, ignored);
  } else if (::rename(staging_.c_str(), path_.c_str()) != 0) {
    fail_output(path_, "name the folder", errno);
  }
  staging_.clear();
  sync_path(parent_of(path_), path_);
}

// The lock tells whether the writer lives. A process number would not do: it is another machine's
// or container's, or has been given out anew.
void remove_if_abandoned(const fs::path& temporary) {
  std::error_code ignored;
  if (fs::is_symlink(temporary, ignored)) {
    fs::remove(temporary, ignored);
    return;
  }
  const int descriptor = ::open(temporary.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (descriptor < 0) return;
  if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) fs::remove_all(temporary, ignored);
  ::close(descriptor);
}

std::string name_of_temporary(std::string_view name) {
  const size_t mark = name.rfind(kTemporaryMark);
  if (!name.starts_with('.') || mark == name.npos || mark < 2) return {};
  const std::string_view digits = name.substr(mark + kTemporaryMark.size());
  const bool is_ours = !digits.empty() && digits.find_first_not_of("0123456789-") == digits.npos;
  return is_ours ? std::string(name.substr(1, mark - 1)) : std::string();
}

void remove_whole(const fs::path& path) {
  const fs::path old = temporary_for(path);
  if (::rename(path.c_str(), old.c_str()) != 0) {
    if (errno != ENOENT) fail_output(path, "remove it", errno);
    return;
  }
  // What cannot be removed now keeps its temporary name, and the next writer tries again.
  std::error_code ignored;
  fs::remove_all(old, ignored);
}

LineFile::LineFile(fs::path path) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail_output(path_, "open it for appending", errno);
}

LineFile::~LineFile() { ::close(descriptor_); }

void LineFile::append(std::string_view line) { append_bytes(fmt::format("{}\n", line)); }

void LineFile::append_bytes(std::string_view bytes) {
  const int64_t before = size();
  const int error = write_all(descriptor_, bytes.data(), bytes.size());
  if (error == 0) return;
  // Cuts off the part of the line that a full disk let through.
  const bool is_whole = ::ftruncate(descriptor_, before) == 0;
  fail_output(
      path_,
      fmt::format("append {} bytes{}", bytes.size(), is_whole ? "" : " (the last line may be cut)"),
      error);
}

void LineFile::sync() {
  if (::fsync(descriptor_) != 0 && errno != EINVAL) fail_output(path_, "flush it", errno);
}

int64_t LineFile::size() const {
  struct stat status = {};
  if (::fstat(descriptor_, &status) != 0) fail_output(path_, "find its size", errno);
  return status.st_size;
}

void LineFile::truncate(int64_t size) {
  const int64_t now = this->size();
  if (size > now)
    fail<IoError>("unwritable-output", path_.string(),
                  "expected at least {} bytes to cut back to, got {}", size, now);
  if (::ftruncate(descriptor_, size) != 0) fail_output(path_, "cut it back", errno);
}

}  // namespace lockstep
