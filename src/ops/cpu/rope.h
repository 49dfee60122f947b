// The rotary embedding's kernel.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free. T is float, or uint16_t for the bits of a bfloat16.
#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

/// The heads of one token, and where the rotated ones go (contiguous).
template <class T>
struct RopeToken {
  const T* x;
  int64_t heads, head_stride, head_dim;
  T* y;
};

/// Rotates the first `rotary_dim` dimensions of each head by the angles of `table` [rotary_dim]
/// (cosines, then sines), which is rounded to T first; by the negative angles if `inverse`. The
/// other dimensions are copied.
template <class T>
void rotate_heads(const RopeToken<T>& token, const float* table, int64_t rotary_dim, bool inverse);

}  // namespace lockstep::ops::cpu
