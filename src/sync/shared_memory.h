// Blocks of memory that processes of one machine share by name.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace lockstep::sync {

/// A block under /dev/shm. Its maker holds a lock on it for as long as it lives, so that what a
/// killed process has left is told from what is in use.
class SharedMemory {
 public:
  /// Makes a block of `bytes` bytes that only this user can open, under a name that nobody can
  /// guess, and takes room for all of it at once. Blocks whose makers are gone are removed first.
  /// Throws IoError "no-shared-memory".
  static std::shared_ptr<SharedMemory> create(size_t bytes);
  /// Makes a block without a name, which no other process can open. /dev/shm need not have room for
  /// it. Throws IoError "no-shared-memory".
  static std::shared_ptr<SharedMemory> create_nameless(size_t bytes);
  /// Opens another process's block for reading. Throws IoError "no-shared-memory" for a name that
  /// is no block's, a block that is not there or has not `bytes` bytes.
  static std::shared_ptr<const SharedMemory> open(const std::string& name, size_t bytes);
  /// Takes its memory back when the last process has closed it, and its name, if this is its maker.
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  /// "lockstep-3f…"; empty for a block without one.
  const std::string& name() const { return name_; }
  std::span<std::byte> bytes() { return {data_, size_}; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  SharedMemory() = default;
  void take_room(size_t bytes, const std::string& where);
  void map(size_t bytes, bool is_writable);

  std::string name_;
  int descriptor_ = -1;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  bool is_maker_ = false;
};

}  // namespace lockstep::sync
