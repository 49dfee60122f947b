// The two ways to move the bytes of weights fast: long runs that bypass the caches, and transposed
// squares.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace lockstep::layout {

/// Where written bytes should go.
enum class Destination : int {
  /// They are not read again soon: stores bypass the caches, and no line is read into them first.
  kMemory,
  /// They are read again soon.
  kCache
};

/// Copies a run to memory, a short one as memcpy does. Other threads may read it after
/// stream_fence().
void stream_copy(const std::byte* from, std::byte* to, size_t bytes);
/// Orders what this thread wrote to memory before whatever it does next.
void stream_fence();

/// to[column * to_stride + row] = from[row * from_stride + column], strides in elements. With
/// Destination::kMemory, stream_fence() is needed as after stream_copy().
void transpose(const uint16_t* from,
               int64_t from_stride,
               int64_t rows,
               int64_t columns,
               uint16_t* to,
               int64_t to_stride,
               Destination destination);
void transpose(const uint32_t* from,
               int64_t from_stride,
               int64_t rows,
               int64_t columns,
               uint32_t* to,
               int64_t to_stride,
               Destination destination);

}  // namespace lockstep::layout
