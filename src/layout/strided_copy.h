// The strided copy that every conversion consists of.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "base/element_type.h"
#include "layout/copy_kernels.h"
#include "layout/plan.h"

namespace lockstep::layout {

/// Copies elements of `width` bytes (1, 2, 4 or 8) from `from` to `to` by `strides`, whose offsets
/// and steps are in elements. Runs are copied as a whole; where the two sides run along different
/// dimensions, squares are transposed. The two sides must not overlap.
void strided_copy(const Strides& strides,
                  int64_t width,
                  const std::byte* from,
                  std::byte* to,
                  Destination destination = Destination::kMemory);

/// What becomes of each value on its way.
struct ValueChange {
  /// The types in which it is read and written; F32 or BF16 if they differ or something is added.
  /// F32 becomes BF16 by rounding to the nearest, ties to even; what BF16 can hold keeps its bits.
  ElementType from, to;
  /// 0, 1 or -1. What is added is added before the value is rounded.
  int added = 0;

  bool is_none() const { return from == to && added == 0; }
};

/// The same for a change that is not none. Returns false if taking the change back would not give
/// the same bytes for each value; then, if something was added, `to` holds anything.
bool strided_copy_changed(const Strides& strides,
                          const ValueChange& change,
                          const std::byte* from,
                          std::byte* to);

}  // namespace lockstep::layout
