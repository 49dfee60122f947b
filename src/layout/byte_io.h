// Where the bytes of a layout's tensors come from, and where they go.
// SPDX-License-Identifier: Apache-2.0
//
// Files are one kind of source and sink (cli/weight_folder.h), memory is another (tests).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace lockstep::layout {

/// The tensors of all ranks of a layout, by their indices in it. Threads: read from any.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// All bytes of a tensor; they stay until the source is destroyed.
  virtual std::span<const std::byte> tensor(int64_t rank, int64_t index) = 0;
  /// Says that what was read so far will hardly be read again, so that its memory may be released.
  virtual void release() {}
};

/// Where a plan's result goes. Pieces come in the plan's order, one at a time.
class ByteSink {
 public:
  virtual ~ByteSink() = default;
  /// The tensor's memory, if it can be filled in place; then write() is not called for the tensor.
  /// The memory must be zero.
  virtual std::span<std::byte> memory(int64_t /*rank*/, int64_t /*index*/) { return {}; }
  /// Writes the bytes of a tensor that begin at its byte `begin`.
  virtual void write(int64_t rank,
                     int64_t index,
                     int64_t begin,
                     std::span<const std::byte> bytes) = 0;
};

/// A sink whose tensors all change in one moment, or not at all. What is written lies aside until
/// commit(), and until then its readers see what was there.
class UpdateSink : public ByteSink {
 public:
  /// Makes room for an update. What memory() lends is zero then.
  virtual void begin() = 0;
  /// Makes what was written what its readers see.
  virtual void commit() = 0;
  /// Forgets what was written.
  virtual void drop() noexcept = 0;
};

/// How many bytes of a source are touched before it is told to release them.
inline constexpr int64_t kTouchedBytes = int64_t{32} << 20;

}  // namespace lockstep::layout
