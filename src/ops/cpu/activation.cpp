// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/activation.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/activation.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/bfloat16-inl.h"
#include "ops/cpu/sigmoid-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

template <class T>
struct SiluMul {
  const T *gate, *up;
  T* out;
  template <class D>
  HWY_INLINE void step(D d, int64_t i) const {
    const auto x = load_float(d, gate + i);
    store_float(d, hn::Mul(x, sigmoid(d, x)), out + i);  // transformers rounds here, too
    store_float(d, hn::Mul(load_float(d, out + i), load_float(d, up + i)), out + i);
  }
};

template <class T>
struct SiluMulBackward {
  const T *gate, *up, *dout;
  T *dgate, *dup;
  template <class D>
  HWY_INLINE void step(D d, int64_t i) const {
    const auto x = load_float(d, gate + i), dy = load_float(d, dout + i);
    const auto s = sigmoid(d, x);
    store_float(d, hn::Mul(dy, hn::Mul(x, s)), dup + i);
    store_float(d, hn::Mul(hn::Mul(dy, load_float(d, up + i)), silu_slope(d, x, s)), dgate + i);
  }
};

/// sigmoid, but NaN stays NaN.
template <class D>
HWY_INLINE hn::Vec<D> sigmoid_or_nan(D d, hn::Vec<D> x) {
  return hn::IfThenElse(hn::IsNaN(x), x, sigmoid(d, x));
}

template <class T>
struct SigmoidMul {
  const T *x, *gate;
  T* out;
  template <class D>
  HWY_INLINE void step(D d, int64_t i) const {
    store_float(d, sigmoid_or_nan(d, load_float(d, gate + i)), out + i);
    store_float(d, hn::Mul(load_float(d, out + i), load_float(d, x + i)), out + i);
  }
};

/// As SigmoidMul with one gate for the whole row: its sigmoid comes from the same vector
/// instructions at every row, where a library's sigmoid of a column would depend on the row's place
/// in it.
template <class T>
void scale_by_sigmoid(const T* x, const T* gate, int64_t width, T* out) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  T rounded;
  store_float(one, sigmoid_or_nan(one, load_float(one, gate)), &rounded);
  const float scale = hn::GetLane(load_float(one, &rounded));
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= width; i += lanes)
    store_float(d, hn::Mul(hn::Set(d, scale), load_float(d, x + i)), out + i);
  for (; i < width; ++i)
    store_float(one, hn::Mul(hn::Set(one, scale), load_float(one, x + i)), out + i);
}

template <class T>
struct SigmoidMulBackward {
  SigmoidMulBackwardRow<T> row;
  template <class D>
  HWY_INLINE void step(D d, int64_t i) const {
    const auto s = sigmoid_or_nan(d, load_float(d, row.gate + i));
    const auto dy_s = hn::Mul(load_float(d, row.dout + i), s);
    if (row.dx != nullptr) store_float(d, dy_s, row.dx + i);
    if (row.dgate == nullptr) return;
    const auto slope = hn::Mul(dy_s, hn::Sub(hn::Set(d, 1.0f), s));
    store_float(d, hn::Mul(slope, load_float(d, row.x + i)), row.dgate + i);
  }
};

template <class Row>
HWY_INLINE void for_columns(int64_t width, const Row& row) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= width; i += lanes) row.step(d, i);
  for (; i < width; ++i) row.step(one, i);
}

void silu_mul_f32(const float* gate_up, int64_t width, float* out) {
  for_columns(width, SiluMul<float>{gate_up, gate_up + width, out});
}
void silu_mul_bf16(const uint16_t* gate_up, int64_t width, uint16_t* out) {
  for_columns(width, SiluMul<uint16_t>{gate_up, gate_up + width, out});
}
void silu_mul_backward_f32(const float* gate_up, const float* dout, int64_t width, float* grad) {
  for_columns(width, SiluMulBackward<float>{gate_up, gate_up + width, dout, grad, grad + width});
}
void silu_mul_backward_bf16(const uint16_t* gate_up,
                            const uint16_t* dout,
                            int64_t width,
                            uint16_t* grad) {
  for_columns(width, SiluMulBackward<uint16_t>{gate_up, gate_up + width, dout, grad, grad + width});
}
void sigmoid_mul_f32(const float* x, const float* gate, int64_t width, float* out) {
  for_columns(width, SigmoidMul<float>{x, gate, out});
}
void sigmoid_mul_bf16(const uint16_t* x, const uint16_t* gate, int64_t width, uint16_t* out) {
  for_columns(width, SigmoidMul<uint16_t>{x, gate, out});
}
void scale_by_sigmoid_f32(const float* x, const float* gate, int64_t width, float* out) {
  scale_by_sigmoid(x, gate, width, out);
}
void scale_by_sigmoid_bf16(const uint16_t* x, const uint16_t* gate, int64_t width, uint16_t* out) {
  scale_by_sigmoid(x, gate, width, out);
}
void sigmoid_mul_backward_f32(const SigmoidMulBackwardRow<float>& row, int64_t width) {
  for_columns(width, SigmoidMulBackward<float>{row});
}
void sigmoid_mul_backward_bf16(const SigmoidMulBackwardRow<uint16_t>& row, int64_t width) {
  for_columns(width, SigmoidMulBackward<uint16_t>{row});
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

HWY_EXPORT(silu_mul_f32);
HWY_EXPORT(silu_mul_bf16);
HWY_EXPORT(silu_mul_backward_f32);
HWY_EXPORT(silu_mul_backward_bf16);
HWY_EXPORT(sigmoid_mul_f32);
HWY_EXPORT(sigmoid_mul_bf16);
HWY_EXPORT(scale_by_sigmoid_f32);
HWY_EXPORT(scale_by_sigmoid_bf16);
HWY_EXPORT(sigmoid_mul_backward_f32);
HWY_EXPORT(sigmoid_mul_backward_bf16);

void silu_mul_row(const float* gate_up, int64_t width, float* out) {
  HWY_DYNAMIC_DISPATCH(silu_mul_f32)(gate_up, width, out);
}
void silu_mul_row(const uint16_t* gate_up, int64_t width, uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(silu_mul_bf16)(gate_up, width, out);
}
void silu_mul_backward_row(const float* gate_up,
                           const float* dout,
                           int64_t width,
                           float* dgate_up) {
  HWY_DYNAMIC_DISPATCH(silu_mul_backward_f32)(gate_up, dout, width, dgate_up);
}
void silu_mul_backward_row(const uint16_t* gate_up,
                           const uint16_t* dout,
                           int64_t width,
                           uint16_t* dgate_up) {
  HWY_DYNAMIC_DISPATCH(silu_mul_backward_bf16)(gate_up, dout, width, dgate_up);
}
void sigmoid_mul_row(const float* x, const float* gate, int64_t width, float* out) {
  HWY_DYNAMIC_DISPATCH(sigmoid_mul_f32)(x, gate, width, out);
}
void sigmoid_mul_row(const uint16_t* x, const uint16_t* gate, int64_t width, uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(sigmoid_mul_bf16)(x, gate, width, out);
}
void scale_by_sigmoid_row(const float* x, const float* gate, int64_t width, float* out) {
  HWY_DYNAMIC_DISPATCH(scale_by_sigmoid_f32)(x, gate, width, out);
}
void scale_by_sigmoid_row(const uint16_t* x, const uint16_t* gate, int64_t width, uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(scale_by_sigmoid_bf16)(x, gate, width, out);
}
void sigmoid_mul_backward_row(const SigmoidMulBackwardRow<float>& row, int64_t width) {
  HWY_DYNAMIC_DISPATCH(sigmoid_mul_backward_f32)(row, width);
}
void sigmoid_mul_backward_row(const SigmoidMulBackwardRow<uint16_t>& row, int64_t width) {
  HWY_DYNAMIC_DISPATCH(sigmoid_mul_backward_bf16)(row, width);
}

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
