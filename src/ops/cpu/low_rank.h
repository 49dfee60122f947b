// Rows on their way into and out of an adapter's products, and what dropout leaves of them.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free. T is float, or uint16_t for the bits of a bfloat16.
#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

/// Which elements of a row are dropped: element i is where dropout_bits(key, i) < threshold.
struct DroppedRow {
  uint64_t key = 0;
  /// Of 2^31; 0: none.
  uint32_t threshold = 0;
  /// What the others are multiplied with.
  float scale = 1;
};

/// 31 random bits for an element of the row with that key: two rounds of a multiplying hash.
/// Source: the mixing steps and constants are Wellons' (hash-prospector, triple32 and lowbias32);
/// the key enters before each round.
constexpr uint32_t dropout_bits(uint64_t key, uint32_t element) {
  uint32_t x = element + static_cast<uint32_t>(key);
  x ^= x >> 16;
  x *= 0x21f0aaadU;
  x ^= x >> 15;
  x += static_cast<uint32_t>(key >> 32);
  x *= 0x735a2d97U;
  x ^= x >> 15;
  x *= 0x7feb352dU;
  return (x ^ x >> 16) >> 1;
}

/// to[i] = from[i] scale, or 0 where it is dropped; `from` may be `to`. The elements are adjacent.
template <class T>
void widen_row(const T* from, int64_t width, const DroppedRow& dropped, float* to);

/// to[i] += from[i], in float32, rounded once.
template <class T>
void add_row(const float* from, int64_t width, T* to);

}  // namespace lockstep::ops::cpu
