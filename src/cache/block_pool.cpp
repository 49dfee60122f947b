// SPDX-License-Identifier: Apache-2.0
#include "cache/block_pool.h"

#include <algorithm>
#include <functional>

#include "base/check.h"

namespace lockstep::cache {

BlockPool::BlockPool(int64_t capacity)
    : holders_(static_cast<size_t>(capacity) + 1, 0),
      cached_(static_cast<size_t>(capacity) + 1, 0) {
  LOCKSTEP_CHECK(capacity >= 0 && capacity < (int64_t{1} << 31), "capacity {}", capacity);
  // Sorted ids are a heap already.
  for (int64_t id = 1; id <= capacity; ++id) free_.push_back(static_cast<int32_t>(id));
}

std::optional<int32_t> BlockPool::allocate() {
  if (free_.empty()) return {};
  std::pop_heap(free_.begin(), free_.end(), std::greater<>());
  const int32_t id = free_.back();
  free_.pop_back();
  holders_[static_cast<size_t>(id)] = 1;
  return id;
}

/// Adds holders to an id in use, `cached` of them entries of a cache, or takes them away.
void BlockPool::add(int32_t id, int32_t holders, int32_t cached) {
  LOCKSTEP_CHECK(id >= 1 && id <= capacity() && this->holders(id) >= 1, "block {} is not in use",
                 id);
  num_idle_ -= is_idle(id);
  holders_[static_cast<size_t>(id)] += holders;
  cached_[static_cast<size_t>(id)] += cached;
  num_idle_ += is_idle(id);
  LOCKSTEP_CHECK(cached_[static_cast<size_t>(id)] >= 0 &&
                     cached_[static_cast<size_t>(id)] <= this->holders(id),
                 "block {} has {} holders, {} of them cached", id, this->holders(id),
                 cached_[static_cast<size_t>(id)]);
  if (this->holders(id)) return;
  free_.push_back(id);
  std::push_heap(free_.begin(), free_.end(), std::greater<>());
}

void BlockPool::retain(int32_t id) { add(id, 1, 0); }
void BlockPool::release(int32_t id) { add(id, -1, 0); }
void BlockPool::retain_cached(int32_t id) { add(id, 1, 1); }
void BlockPool::release_cached(int32_t id) { add(id, -1, -1); }

}  // namespace lockstep::cache
