// SPDX-License-Identifier: Apache-2.0
#include "layout/shadow_memory.h"

#include <algorithm>

#include "base/check.h"

namespace lockstep::layout {

ShadowMemory::ShadowMemory(const Layout& layout, int64_t rank)
    : layout_(layout.rank(rank)), rank_(rank), current_(allocated()) {}

ShadowMemory::Tensors ShadowMemory::allocated() const {
  Tensors tensors;
  for (const PhysicalTensor& tensor : layout_)
    tensors.push_back(std::make_unique<std::byte[]>(static_cast<size_t>(tensor.bytes())));
  return tensors;
}

std::span<const std::byte> ShadowMemory::tensor(int64_t index) const {
  const auto i = static_cast<size_t>(index);
  return {current_[i].get(), static_cast<size_t>(layout_[i].bytes())};
}

std::span<std::byte> ShadowMemory::memory(int64_t rank, int64_t index) {
  LOCKSTEP_CHECK(rank == rank_, "rank {} asked for the memory of rank {}", rank, rank_);
  LOCKSTEP_CHECK(!shadow_.empty() || layout_.empty(), "rank {} has no update under way", rank);
  const auto i = static_cast<size_t>(index);
  return {shadow_[i].get(), static_cast<size_t>(layout_[i].bytes())};
}

void ShadowMemory::write(int64_t rank,
                         int64_t index,
                         int64_t begin,
                         std::span<const std::byte> bytes) {
  std::copy(bytes.begin(), bytes.end(), memory(rank, index).begin() + begin);
}

}  // namespace lockstep::layout
