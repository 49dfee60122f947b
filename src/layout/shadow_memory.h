// One rank's tensors in memory, which an update changes all at once.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "layout/byte_io.h"
#include "layout/layout.h"

namespace lockstep::layout {

/// Holds the tensors once, and a second time while an update is under way. Not thread-safe.
class ShadowMemory : public UpdateSink {
 public:
  /// All bytes are zero. Keeps a reference to the layout.
  ShadowMemory(const Layout& layout, int64_t rank);

  /// What was committed last; the bytes stay until the next commit().
  std::span<const std::byte> tensor(int64_t index) const;

  void begin() override { shadow_ = allocated(); }
  void commit() override { current_.swap(shadow_), shadow_.clear(); }
  void drop() noexcept override { shadow_.clear(); }
  std::span<std::byte> memory(int64_t rank, int64_t index) override;
  void write(int64_t rank, int64_t index, int64_t begin, std::span<const std::byte> bytes) override;

 private:
  using Tensors = std::vector<std::unique_ptr<std::byte[]>>;
  Tensors allocated() const;

  const RankTensors& layout_;
  int64_t rank_;
  /// `shadow_` is empty unless an update is under way.
  Tensors current_, shadow_;
};

}  // namespace lockstep::layout
