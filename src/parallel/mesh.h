// Messages between any two ranks, as a transport gives them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace lockstep::parallel {

/// A message on its way. Its bytes live until wait() has returned or it is destroyed; from then on
/// the transport does not touch them.
class Transfer {
 public:
  virtual ~Transfer() = default;
  /// Returns when the bytes are sent or received; false after cancel(). Throws what the transport
  /// throws when that takes longer than `time` or the connection is gone; the mesh is of no use
  /// then.
  virtual bool wait(std::chrono::milliseconds time) = 0;
  /// Ends wait(), in another thread or the next one.
  virtual void cancel() = 0;
};

/// A connection between any two ranks. When it is destroyed the others' transfers with this rank
/// fail.
///
/// Threads: one, but for Transfer::cancel().
class Mesh {
 public:
  virtual ~Mesh() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  /// A message of a rank to another is received by the receive() with the same tag, which has room
  /// for as many bytes or more. Tags are below 2^31; one that is in use is not used again.
  virtual std::unique_ptr<Transfer> send(std::span<const std::byte> bytes,
                                         int64_t to,
                                         uint32_t tag) = 0;
  virtual std::unique_ptr<Transfer> receive(std::span<std::byte> bytes,
                                            int64_t from,
                                            uint32_t tag) = 0;
};

}  // namespace lockstep::parallel
