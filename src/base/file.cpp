// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include "base/check.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail_read(const fs::path& path, int error) {
  fail<IoError>("unreadable-file", path.string(), "expected a readable file, got {}",
                std::strerror(error));
}

/// The name that a user knows: a file in a folder that is not named yet is spoken of as if it were.
fs::path final_name(const fs::path& path) {
  fs::path named;
  for (const fs::path& part : path) {
    const std::string name = part.string();
    const size_t mark = name.rfind(".tmp-");
    named /= name.starts_with('.') && mark != name.npos && mark > 1
                 ? fs::path(name.substr(1, mark - 1))
                 : part;
  }
  return named;
}

[[noreturn]] void fail_output(const fs::path& path, std::string_view wanted, int error) {
  fail<IoError>("unwritable-output", final_name(path).string(), "expected to {}, got {}", wanted,
                std::strerror(error));
}

/// open() for reading, of what is not a directory. Throws IoError.
int open_to_read(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail_read(path, errno);
  struct stat status = {};
  if (::fstat(descriptor, &status) == 0 && !S_ISDIR(status.st_mode)) return descriptor;
  ::close(descriptor);
  fail_read(path, EISDIR);
}

/// Bytes read, 0 at the end of the file.
size_t read_some(int descriptor, char* bytes, size_t size, const fs::path& path) {
  for (;;) {
    const ssize_t count = ::read(descriptor, bytes, size);
    if (count >= 0) return static_cast<size_t>(count);
    if (errno != EINTR) fail_read(path, errno);
  }
}

/// 0, or errno of the write that failed.
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

/// fsync of a file or folder by name. Throws IoError about `output`.
void sync_path(const fs::path& path, const fs::path& output) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail_output(output, "flush it", errno);
  // EINVAL: a file system without fsync of folders.
  const int error = ::fsync(descriptor) == 0 || errno == EINVAL ? 0 : errno;
  ::close(descriptor);
  if (error != 0) fail_output(output, "flush it", error);
}

std::string temporary_prefix(const fs::path& path) {
  return fmt::format(".{}.tmp-", path.filename().string());
}

/// Removes what processes that are gone left beside `path` under its temporary names.
void remove_stale_temporaries(const fs::path& path) {
  const std::string prefix = temporary_prefix(path);
  std::error_code ignored;
  std::vector<fs::path> stale;
  for (const auto& entry : fs::directory_iterator(parent_of(path), ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.compare(0, prefix.size(), prefix) != 0) continue;
    pid_t process = 0;
    std::from_chars(name.data() + prefix.size(), name.data() + name.size(), process);
    if (process > 0 && ::kill(process, 0) != 0 && errno == ESRCH) stale.push_back(entry.path());
  }
  for (const auto& leftover : stale) fs::remove_all(leftover, ignored);
}

/// A name beside `path` that no other writer uses.
fs::path temporary_for(const fs::path& path) {
  static std::atomic<uint64_t> counter{0};
  return parent_of(path) /
         fmt::format("{}{}-{}", temporary_prefix(path), ::getpid(), counter.fetch_add(1));
}

/// "dir/" and "dir" name the same output.
fs::path without_trailing_slash(fs::path path) {
  return path.has_filename() || !path.has_parent_path() ? path : path.parent_path();
}

/// Exchanges two folders in one step where the file system can, else in two.
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

LineReader::LineReader(fs::path path) : path_(std::move(path)), descriptor_(open_to_read(path_)) {}

LineReader::~LineReader() { ::close(descriptor_); }

bool LineReader::refill() {
  constexpr size_t kChunk = size_t{1} << 18;
  buffer_.resize(kChunk);
  buffer_.resize(read_some(descriptor_, buffer_.data(), kChunk, path_));
  position_ = 0;
  return !buffer_.empty();
}

bool LineReader::next(std::string& line) {
  line.clear();
  bool found = false;
  while (position_ < buffer_.size() || refill()) {
    found = true;
    const size_t end = buffer_.find('\n', position_);
    if (end != buffer_.npos) {
      line.append(buffer_, position_, end - position_);
      position_ = end + 1;
      break;
    }
    line.append(buffer_, position_);
    position_ = buffer_.size();
  }
  line_number_ += found;
  return found;
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

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) {
  std::error_code ignored;
  const fs::file_status status = fs::status(path_, ignored);
  if (fs::is_directory(status)) fail_output(path_, "write a file", EISDIR);
  int flags = O_WRONLY | O_CLOEXEC;
  fs::path target = path_;
  if (!fs::exists(status) || fs::is_regular_file(status)) {
    remove_stale_temporaries(path_);
    temporary_ = temporary_for(path_);
    target = temporary_;
    flags |= O_CREAT | O_EXCL;
  }
  descriptor_ = ::open(target.c_str(), flags, 0666);
  if (descriptor_ < 0) fail_output(path_, "create it", errno);
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
  const auto* from = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t written = ::pwrite(descriptor_, from, size, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0)
      fail_output(path_, fmt::format("write {} bytes", size), written < 0 ? errno : EIO);
    from += written;
    offset += static_cast<size_t>(written);
    size -= static_cast<size_t>(written);
  }
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
  const int failed = error.value();
  if (!failed) remove_stale_temporaries(path_);
  const fs::path staging = temporary_for(path_);
  const bool is_made = !failed && ::mkdir(staging.c_str(), 0777) == 0;
  if (is_made) {
    staging_ = staging;
    return;
  }
  const int reason = failed ? failed : errno;
  remove_made_parents();
  fail_output(path_, failed ? "make its folder" : "make the folder", reason);
}

AtomicDirectory::~AtomicDirectory() {
  if (staging_.empty()) return;
  std::error_code ignored;
  fs::remove_all(staging_, ignored);
  remove_made_parents();
}

/// Those that are still empty, the innermost first.
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
  // Take back what a full disk let through of the line.
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

void check_output_path(const fs::path& path, bool overwrite, std::string_view where) {
  std::error_code ignored;
  if (path.empty()) fail<ConfigError>("bad-flag", where, "expected a path, got an empty one");
  if (overwrite || !fs::exists(fs::symlink_status(path, ignored))) return;
  if (fs::is_directory(path, ignored) && fs::is_empty(path, ignored)) return;
  const fs::file_status status = fs::status(path, ignored);
  if (fs::is_character_file(status) || fs::is_fifo(status)) return;
  fail<ConfigError>("output-exists", where,
                    "expected a path that is not there yet, got {} (hint: --overwrite true)",
                    path.string());
}

}  // namespace lockstep
