// SPDX-License-Identifier: Apache-2.0
#include "layout/copy_kernels.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layout/copy_kernels.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "base/kernel_dispatch.h"

HWY_BEFORE_NAMESPACE();
namespace lockstep::layout {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

constexpr size_t kLine = 64;

/// Stores whole cache lines past the caches; `to` is at the start of one. Returns the bytes that
/// are done.
HWY_INLINE size_t stream_lines(const uint8_t* from, uint8_t* to, size_t bytes) {
  const hn::CappedTag<uint8_t, kLine> d;
  const size_t width = hn::Lanes(d);
  size_t i = 0;
  for (; i + kLine <= bytes; i += kLine)
    for (size_t part = 0; part < kLine; part += width)
      hn::Stream(hn::LoadU(d, from + i + part), d, to + i + part);
  return i;
}

void stream(const uint8_t* from, uint8_t* to, size_t bytes) {
  constexpr size_t kShort = 1024;
  if (bytes < kShort) {
    std::memcpy(to, from, bytes);
    return;
  }
  const size_t head = (kLine - reinterpret_cast<uintptr_t>(to) % kLine) % kLine;
  std::memcpy(to, from, head);
  from += head, to += head, bytes -= head;
  const size_t done = stream_lines(from, to, bytes);
  std::memcpy(to + done, from + done, bytes - done);
}

/// Stores a few whole cache lines of a transposed block.
HWY_INLINE void store_lines(const uint8_t* from,
                            uint8_t* to,
                            size_t bytes,
                            Destination destination) {
  if (destination == Destination::kMemory && reinterpret_cast<uintptr_t>(to) % kLine == 0)
    stream_lines(from, to, bytes);
  else
    std::memcpy(to, from, bytes);
}

#if HWY_TARGET == HWY_SCALAR
// The scalar target has no vectors and transposes no squares.
constexpr int64_t kSquareBytes = 1;
template <class T>
void square(const T* from, int64_t, T* to, int64_t) {
  *to = *from;
}
#else
constexpr int64_t kSquareBytes = 16;
/// Transposes a square of one vector of 128 bits each way: 8 x 8 elements of 16 bits, 4 x 4 of 32.
HWY_INLINE void square(const uint16_t* from, int64_t from_stride, uint16_t* to, int64_t to_stride) {
  const hn::FixedTag<uint16_t, 8> d;
  const hn::FixedTag<uint32_t, 4> d32;
  const hn::FixedTag<uint64_t, 2> d64;
  using V = hn::Vec<decltype(d)>;
  V row[8], pair[8], quad[8];
  for (int i = 0; i < 8; ++i) row[i] = hn::LoadU(d, from + i * from_stride);
  // pair[2i]: columns 0-3 of rows 2i and 2i + 1; the next: columns 4-7.
  for (int i = 0; i < 4; ++i) {
    pair[2 * i] = hn::InterleaveLower(d, row[2 * i], row[2 * i + 1]);
    pair[2 * i + 1] = hn::InterleaveUpper(d, row[2 * i], row[2 * i + 1]);
  }
  // Half 0 is rows 0-3, half 1 rows 4-7.
  for (int half = 0; half < 2; ++half)
    for (int side = 0; side < 2; ++side) {
      const auto a = hn::BitCast(d32, pair[4 * half + side]),
                 b = hn::BitCast(d32, pair[4 * half + 2 + side]);
      quad[4 * half + 2 * side] = hn::BitCast(d, hn::InterleaveLower(d32, a, b));
      quad[4 * half + 2 * side + 1] = hn::BitCast(d, hn::InterleaveUpper(d32, a, b));
    }
  for (int i = 0; i < 4; ++i) {
    const auto top = hn::BitCast(d64, quad[i]), bottom = hn::BitCast(d64, quad[4 + i]);
    hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, top, bottom)), d, to + (2 * i) * to_stride);
    hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, top, bottom)), d,
               to + (2 * i + 1) * to_stride);
  }
}
HWY_INLINE void square(const uint32_t* from, int64_t from_stride, uint32_t* to, int64_t to_stride) {
  const hn::FixedTag<uint32_t, 4> d;
  const hn::FixedTag<uint64_t, 2> d64;
  const auto a = hn::LoadU(d, from), b = hn::LoadU(d, from + from_stride),
             c = hn::LoadU(d, from + 2 * from_stride), e = hn::LoadU(d, from + 3 * from_stride);
  const auto ab = hn::InterleaveLower(d, a, b), ab2 = hn::InterleaveUpper(d, a, b),
             ce = hn::InterleaveLower(d, c, e), ce2 = hn::InterleaveUpper(d, c, e);
  const auto store = [&](auto top, auto bottom, int64_t at) HWY_ATTR {
    const auto t = hn::BitCast(d64, top), u = hn::BitCast(d64, bottom);
    hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, t, u)), d, to + at * to_stride);
    hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, t, u)), d, to + (at + 1) * to_stride);
  };
  store(ab, ce, 0);
  store(ab2, ce2, 2);
}

#endif

/// Transposes blocks of some cache lines each way through buffers of their own: strides of weights
/// are often powers of two, and whole columns of them would share a few sets of the cache.
template <class T>
void transpose(const Transposition<T>& matrix, Destination destination) {
  const auto [from, from_stride, rows, columns, to, to_stride] = matrix;
  constexpr int64_t kSide = std::max<int64_t>(1, kSquareBytes / sizeof(T)),
                    kColumns = kLine / sizeof(T), kRows = 4 * kColumns;
  HWY_ALIGN T in[kRows * kColumns];
  HWY_ALIGN T out[kColumns * kRows];
  const int64_t whole_rows = rows / kRows * kRows, whole_columns = columns / kColumns * kColumns;
  for (int64_t row = 0; row < whole_rows; row += kRows) {
    for (int64_t column = 0; column < whole_columns; column += kColumns) {
      // Fetches the next block's lines meanwhile, which the processor's own prefetcher does not
      // foresee.
      const bool is_last = column + kColumns == whole_columns;
      const T* const next = is_last ? from + (row + kRows) * from_stride
                                    : from + row * from_stride + column + kColumns;
      const bool has_next = !is_last || row + kRows < whole_rows;
      for (int64_t r = 0; r < kRows; ++r) {
        std::memcpy(in + r * kColumns, from + (row + r) * from_stride + column, kLine);
        if (has_next) hwy::Prefetch(next + r * from_stride);
      }
      for (int64_t c = 0; c < kColumns; c += kSide)
        for (int64_t r = 0; r < kRows; r += kSide)
          square(in + r * kColumns + c, kColumns, out + c * kRows + r, kRows);
      for (int64_t c = 0; c < kColumns; ++c)
        store_lines(reinterpret_cast<const uint8_t*>(out + c * kRows),
                    reinterpret_cast<uint8_t*>(to + (column + c) * to_stride + row),
                    kRows * sizeof(T), destination);
    }
  }
  for (int64_t column = 0; column < columns; ++column)
    for (int64_t row = column < whole_columns ? whole_rows : 0; row < rows; ++row)
      std::memcpy(to + column * to_stride + row, from + row * from_stride + column, sizeof(T));
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace lockstep::layout
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::layout {

void stream_copy(const std::byte* from, std::byte* to, size_t bytes) {
  LOCKSTEP_BEST_TARGET(stream)
  (reinterpret_cast<const uint8_t*>(from), reinterpret_cast<uint8_t*>(to), bytes);
}
void stream_fence() { hwy::FlushStream(); }

template <class T>
void transpose(const Transposition<T>& matrix, Destination destination) {
  LOCKSTEP_BEST_TARGET(transpose<T>)(matrix, destination);
}
template void transpose(const Transposition<uint16_t>&, Destination);
template void transpose(const Transposition<uint32_t>&, Destination);

}  // namespace lockstep::layout
#endif  // HWY_ONCE
