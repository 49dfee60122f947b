// SPDX-License-Identifier: Apache-2.0
#include "cache/block_pool.h"

#include <algorithm>
#include <functional>

#include "base/check.h"

namespace lockstep::cache {

BlockPool::BlockPool(int64_t capacity) : holders_(static_cast<size_t>(capacity) + 1, 0) {
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

void BlockPool::retain(int32_t id) {
  LOCKSTEP_CHECK(id >= 1 && id <= capacity() && holders(id) >= 1, "block {} is not in use", id);
  ++holders_[static_cast<size_t>(id)];
}

void BlockPool::release(int32_t id) {
  LOCKSTEP_CHECK(id >= 1 && id <= capacity() && holders(id) >= 1, "block {} is not in use", id);
  if (--holders_[static_cast<size_t>(id)]) return;
  free_.push_back(id);
  std::push_heap(free_.begin(), free_.end(), std::greater<>());
}

}  // namespace lockstep::cache
