// Bookkeeping of the paged key/value cache and of state slots: who holds which block. It holds no
// memory of theirs and needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace lockstep::cache {

/// Reference-counted ids 1 .. capacity. Id 0 is a dummy that is never handed out; padded rows point
/// at it.
///
/// Some of an id's holders may be entries of a cache. An id that nobody else holds is idle: it can
/// be had when nothing is free.
///
/// Invariant: every id is either free with count 0, or in use with count >= 1. Not thread-safe.
class BlockPool {
 public:
  explicit BlockPool(int64_t capacity);
  /// Takes the lowest free id, with count 1; unset when none is free.
  [[nodiscard]] std::optional<int32_t> allocate();
  /// Adds a holder of an id in use.
  void retain(int32_t id);
  /// Takes a holder away; the last one frees the id. Throws InternalError for an id that is not in
  /// use.
  void release(int32_t id);
  /// retain() and release() for entries of a cache.
  void retain_cached(int32_t id);
  void release_cached(int32_t id);
  bool is_idle(int32_t id) const {
    return holders(id) > 0 && holders(id) == cached_[static_cast<size_t>(id)];
  }
  int64_t num_idle() const { return num_idle_; }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  int64_t capacity() const { return static_cast<int64_t>(holders_.size()) - 1; }
  int32_t holders(int32_t id) const { return holders_[static_cast<size_t>(id)]; }

 private:
  void add(int32_t id, int32_t holders, int32_t cached);

  std::vector<int32_t> holders_;
  /// How many of the holders are entries of a cache.
  std::vector<int32_t> cached_;
  int64_t num_idle_ = 0;
  /// A heap with the lowest id on top, so that the same history gives the same ids.
  std::vector<int32_t> free_;
};

}  // namespace lockstep::cache
