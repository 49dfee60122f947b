// The two ways in which bytes of weights move fast: long runs past the caches, and transposed squares.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace lockstep::layout {

/// Copies a run with stores that go to memory without being read into the caches first: what is written comes from weights of
/// gigabytes and is not read again soon. As memcpy for short runs.
void stream_copy(const std::byte* from, std::byte* to, size_t bytes);

/// to[column * to_stride + row] = from[row * from_stride + column], strides in elements.
void transpose(const uint16_t* from,
               int64_t from_stride,
               int64_t rows,
               int64_t columns,
               uint16_t* to,
               int64_t to_stride);
void transpose(const uint32_t* from,
               int64_t from_stride,
               int64_t rows,
               int64_t columns,
               uint32_t* to,
               int64_t to_stride);

}  // namespace lockstep::layout
