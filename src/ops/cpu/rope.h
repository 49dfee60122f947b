// The rotary embedding's kernel.
// SPDX-License-Identifier: Apache-2.0
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
void rotate_heads(const RopeToken<float>& token,
                  const float* table,
                  int64_t rotary_dim,
                  bool inverse);
void rotate_heads(const RopeToken<uint16_t>& token,
                  const float* table,
                  int64_t rotary_dim,
                  bool inverse);

}  // namespace lockstep::ops::cpu
