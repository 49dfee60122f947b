// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/rope.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/rope.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/bfloat16-inl.h"

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

/// One head: its halves x[0..half) and x[half..2 half).
template <class T>
struct Head {
  const T* x;
  const float* table;
  int64_t half;
  bool inverse;
  T* y;

  template <class D>
  HWY_INLINE void step(D d, int64_t i) const {
    const auto cosine = rounded(d, hn::LoadU(d, table + i), x);
    const auto sine = rounded(d, hn::LoadU(d, table + half + i), x);
    const auto s = inverse ? hn::Neg(sine) : sine;
    const auto first = load_float(d, x + i), second = load_float(d, x + half + i);
    store_float(d, hn::NegMulAdd(second, s, hn::Mul(first, cosine)), y + i);
    store_float(d, hn::MulAdd(first, s, hn::Mul(second, cosine)), y + half + i);
  }
};

template <class T>
void rotate(const RopeToken<T>& token, const float* table, int64_t rotary_dim, bool inverse) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), half = rotary_dim / 2;
  for (int64_t h = 0; h < token.heads; ++h) {
    const Head<T> head{token.x + h * token.head_stride, table, half, inverse,
                       token.y + h * token.head_dim};
    int64_t i = 0;
    for (; i + lanes <= half; i += lanes) head.step(d, i);
    for (; i < half; ++i) head.step(one, i);
    std::memcpy(head.y + rotary_dim, head.x + rotary_dim,
                static_cast<size_t>(token.head_dim - rotary_dim) * sizeof(T));
  }
}

void rotate_f32(const RopeToken<float>& token, const float* table, int64_t dim, bool inverse) {
  rotate(token, table, dim, inverse);
}
void rotate_bf16(const RopeToken<uint16_t>& token, const float* table, int64_t dim, bool inverse) {
  rotate(token, table, dim, inverse);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

HWY_EXPORT(rotate_f32);
HWY_EXPORT(rotate_bf16);

void rotate_heads(const RopeToken<float>& token, const float* table, int64_t dim, bool inverse) {
  HWY_DYNAMIC_DISPATCH(rotate_f32)(token, table, dim, inverse);
}
void rotate_heads(const RopeToken<uint16_t>& token, const float* table, int64_t dim, bool inverse) {
  HWY_DYNAMIC_DISPATCH(rotate_bf16)(token, table, dim, inverse);
}

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
