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

/// The same with `change` (1 or -1) added to each value in its own type, F32 or BF16. Returns false
/// if taking the change back would not give the same bytes for each value; then `to` holds
/// anything.
bool strided_copy_changed(
    const Strides& strides, ElementType type, int change, const std::byte* from, std::byte* to);

}  // namespace lockstep::layout
