// The tensors of a layout in memory: source and sink of conversions in tests.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "base/random.h"
#include "layout/byte_io.h"
#include "layout/layout.h"

namespace lockstep::layout {

/// Memory that begins at a cache line, as libtorch's does.
template <class T>
struct LineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
  void deallocate(T* memory, size_t) { ::operator delete(memory, kLine); }
  friend bool operator==(const LineAllocator&, const LineAllocator&) { return true; }
};

class MemoryTensors : public ByteSource, public ByteSink {
 public:
  using Bytes = std::vector<std::byte, LineAllocator<std::byte>>;
  explicit MemoryTensors(const Layout& layout, bool lends_memory = false)
      : lends_memory_(lends_memory) {
    for (int64_t r = 0; r < layout.num_ranks(); ++r) {
      ranks_.emplace_back();
      for (const PhysicalTensor& tensor : layout.rank(r))
        // 0xEE: what nobody writes is seen. Memory that is lent has to be zero.
        ranks_.back().emplace_back(static_cast<size_t>(tensor.bytes()),
                                   std::byte{lends_memory ? uint8_t{0} : uint8_t{0xEE}});
    }
  }
  std::span<const std::byte> tensor(int64_t rank, int64_t index) override {
    return ranks_[static_cast<size_t>(rank)][static_cast<size_t>(index)];
  }
  std::span<std::byte> memory(int64_t rank, int64_t index) override {
    if (!lends_memory_) return {};
    return ranks_[static_cast<size_t>(rank)][static_cast<size_t>(index)];
  }
  void write(int64_t rank,
             int64_t index,
             int64_t begin,
             std::span<const std::byte> bytes) override {
    auto& tensor = ranks_[static_cast<size_t>(rank)][static_cast<size_t>(index)];
    std::copy(bytes.begin(), bytes.end(), tensor.begin() + begin);
  }
  Bytes& bytes(int64_t rank, int64_t index) {
    return ranks_[static_cast<size_t>(rank)][static_cast<size_t>(index)];
  }
  friend bool operator==(const MemoryTensors& a, const MemoryTensors& b) {
    return a.ranks_ == b.ranks_;
  }

 private:
  bool lends_memory_;
  std::vector<std::vector<Bytes>> ranks_;
};

}  // namespace lockstep::layout
