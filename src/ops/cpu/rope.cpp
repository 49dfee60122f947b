// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/rope.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/rope.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "base/kernel_dispatch.h"
#include "ops/cpu/bfloat16-inl.h"
#include "ops/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

/// A float32 vector as it is after a rounding to T.
template <class D>
HWY_INLINE hn::Vec<D> rounded(D, hn::Vec<D> value, const float*) {
  return value;
}
template <class D>
HWY_INLINE hn::Vec<D> rounded(D d, hn::Vec<D> value, const uint16_t*) {
  uint16_t bits[hn::MaxLanes(D())];
  store_float(d, value, bits);
  return load_float(d, bits);
}

template <class T>
void rotate_heads(const RopeToken<T>& token, const float* table, int64_t rotary_dim, bool inverse) {
  const int64_t half = rotary_dim / 2;
  for (int64_t h = 0; h < token.heads; ++h) {
    const T* const x = token.x + h * token.head_stride;
    T* const y = token.y + h * token.head_dim;
    for_each_vector(half, [=](auto d, int64_t i) HWY_ATTR {
      const auto cosine = rounded(d, hn::LoadU(d, table + i), x);
      const auto sine = rounded(d, hn::LoadU(d, table + half + i), x);
      const auto s = inverse ? hn::Neg(sine) : sine;
      const auto first = load_float(d, x + i), second = load_float(d, x + half + i);
      store_float(d, hn::NegMulAdd(second, s, hn::Mul(first, cosine)), y + i);
      store_float(d, hn::MulAdd(first, s, hn::Mul(second, cosine)), y + half + i);
    });
    std::memcpy(y + rotary_dim, x + rotary_dim,
                static_cast<size_t>(token.head_dim - rotary_dim) * sizeof(T));
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

template <class T>
void rotate_heads(const RopeToken<T>& token, const float* table, int64_t rotary_dim, bool inverse) {
  LOCKSTEP_BEST_TARGET(rotate_heads<T>)(token, table, rotary_dim, inverse);
}
LOCKSTEP_FOR_FLOAT_TYPES(rotate_heads);

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
