// The copy that every conversion is made of.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "layout/copy_kernels.h"
#include "layout/logical_tensor.h"
#include "layout/plan.h"

namespace lockstep::layout {

/// Copies elements of `width` bytes (1, 2, 4 or 8) from `from + from_offset` to `to + to_offset` by
/// `strides`, whose offsets and steps are in elements. Runs are copied as a whole; where one side
/// runs along another dimension than the other, squares are transposed. The two must not overlap.
void strided_copy(const Strides& strides,
                  int64_t width,
                  const std::byte* from,
                  std::byte* to,
                  Destination destination = Destination::kMemory);

/// The same with `change` (1 or -1) added to each value in its own type, F32 or BF16. False, with
/// nothing promised about `to`, if for one of them the way back would not give the same bytes.
bool strided_copy_changed(
    const Strides& strides, ElementType type, int change, const std::byte* from, std::byte* to);

}  // namespace lockstep::layout
