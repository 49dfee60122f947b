// SPDX-License-Identifier: Apache-2.0
#include "report/growing_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"

namespace lockstep::report {
namespace {

constexpr size_t kReadBytes = size_t{1} << 20;
/// A line ends with its time and memory, or with ids: two of the same end are as good as never
/// there.
constexpr size_t kTailBytes = 256;

struct Descriptor {
  int number;
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
};

/// Reads up to `size` bytes at `offset`; fewer only at the end of the file.
std::string bytes_at(int descriptor,
                     int64_t offset,
                     size_t size,
                     const std::filesystem::path& path) {
  std::string bytes(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t count =
        ::pread(descriptor, bytes.data() + done, size - done, offset + static_cast<int64_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0)
      fail<IoError>("unreadable-file", path.string(), "expected to read it, got {}",
                    std::strerror(errno));
    if (count == 0) break;
    done += static_cast<size_t>(count);
  }
  bytes.resize(done);
  return bytes;
}

}  // namespace

bool GrowingFile::is_continued(int descriptor, int64_t size, uint64_t inode) const {
  if (offset_ == 0) return true;
  if (inode != inode_ || size < offset_) return false;
  const auto length = static_cast<int64_t>(tail_.size());
  return bytes_at(descriptor, offset_ - length, tail_.size(), path_) == tail_;
}

void GrowingFile::read(const std::function<void()>& on_restart, const OnLine& on_line) {
  const Descriptor file{::open(path_.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.number < 0 && errno != ENOENT)
    fail<IoError>("unreadable-file", path_.string(), "expected to open it, got {}",
                  std::strerror(errno));
  struct stat status {};
  if (file.number >= 0) ::fstat(file.number, &status);
  if (file.number < 0 || !is_continued(file.number, status.st_size, status.st_ino)) {
    if (offset_ > 0) on_restart();
    offset_ = 0;
    tail_.clear();
  }
  if (file.number < 0) return;
  inode_ = status.st_ino;
  std::string bytes;
  while (true) {
    const std::string more =
        bytes_at(file.number, offset_ + static_cast<int64_t>(bytes.size()), kReadBytes, path_);
    bytes += more;
    size_t begin = 0;
    for (size_t end; (end = bytes.find('\n', begin)) != std::string::npos; begin = end + 1)
      on_line(std::string_view(bytes).substr(begin, end - begin),
              offset_ + static_cast<int64_t>(begin));
    if (begin > 0) {
      const size_t tail = std::min(kTailBytes, begin);
      tail_ = bytes.substr(begin - tail, tail);
      offset_ += static_cast<int64_t>(begin);
      bytes.erase(0, begin);
    }
    if (more.size() < kReadBytes) return;
  }
}

}  // namespace lockstep::report
