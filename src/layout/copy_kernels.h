// The two ways in which bytes of weights move fast: long runs past the caches, and transposed
// squares.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace lockstep::layout {

/// Where what is written should be found.
enum class Destination : int {
  /// Not read again soon: stores go past the caches, without reading lines into them first.
  kMemory,
  kCache
};

/// Copies a run to memory; short ones as memcpy does. Other threads may see it after
/// stream_fence().
void stream_copy(const std::byte* from, std::byte* to, size_t bytes);
/// Orders what this thread wrote to memory before whatever it does next.
void stream_fence();

/// to[column * to_stride + row] = from[row * from_stride + column], strides in elements. To memory:
/// as stream_copy.
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
