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

/// A matrix and where its transpose goes, strides in elements:
/// to[column to_stride + row] = from[row from_stride + column].
template <class T>
struct Transposition {
  const T* from;
  int64_t from_stride;
  int64_t rows, columns;
  T* to;
  int64_t to_stride;
};

/// Transposes a matrix of elements of 16 or 32 bits (uint16_t, uint32_t). With
/// Destination::kMemory, stream_fence() is needed as after stream_copy().
template <class T>
void transpose(const Transposition<T>& matrix, Destination destination);

}  // namespace lockstep::layout
