// Reads regions of logical tensors out of the physical tensors of a layout.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "layout/byte_io.h"
#include "layout/copy_kernels.h"
#include "layout/layout.h"
#include "layout/plan.h"
#include "layout/strided_copy.h"

namespace lockstep::layout {

/// A region of a logical tensor as a physical tensor of its own, with one axis for each dimension
/// and one box.
struct RegionTensor {
  RegionTensor(const LogicalTensor& logical, int32_t index, const Region& region);
  PhysicalTensor tensor;
  Box box;
};

/// Keeps references to the layout and the source. Threads: any may read.
class RegionReader {
 public:
  RegionReader(const Layout& layout, ByteSource& source);

  const LogicalTensors& logical() const { return layout_.logical(); }

  /// Copies by `strides` from the source's tensor `index` of `rank` to `to` with a change of each
  /// value. Returns false where taking the change back would not give the same bytes.
  bool copy(const Strides& strides,
            const ValueChange& change,
            int64_t rank,
            int64_t index,
            std::byte* to,
            Destination destination = Destination::kMemory) const;

  /// The bytes of a region that lie in logical order, in the logical tensor's type, in one tensor
  /// of the source; empty if they do not.
  std::span<const std::byte> in_order(int32_t tensor, const Region& region) const;

  /// Makes `to` the bytes of a region in logical order and in the logical tensor's type, from
  /// wherever its parts lie.
  void gather(int32_t tensor, const Region& region, std::vector<std::byte>& to) const;

 private:
  struct Owner {
    int64_t rank, index;
    const Box* box;
  };
  const PhysicalTensor& tensor_of(const Owner& owner) const;

  const Layout& layout_;
  ByteSource& source_;
  /// By logical tensor.
  std::vector<std::vector<Owner>> owners_;
};

}  // namespace lockstep::layout
