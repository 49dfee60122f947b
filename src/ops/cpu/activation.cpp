// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/activation.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/activation.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "base/kernel_dispatch.h"
#include "ops/cpu/bfloat16-inl.h"
#include "ops/cpu/sigmoid-inl.h"
#include "ops/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

/// sigmoid, but NaN stays NaN.
template <class D>
HWY_INLINE hn::Vec<D> sigmoid_or_nan(D d, hn::Vec<D> x) {
  return hn::IfThenElse(hn::IsNaN(x), x, sigmoid(d, x));
}

template <class T>
void silu_mul_row(const T* gate_up, int64_t width, T* out) {
  const T *const gate = gate_up, *const up = gate_up + width;
  for_each_vector(width, [=](auto d, int64_t i) HWY_ATTR {
    const auto x = load_float(d, gate + i);
    // transformers rounds here, too.
    store_float(d, hn::Mul(x, sigmoid(d, x)), out + i);
    store_float(d, hn::Mul(load_float(d, out + i), load_float(d, up + i)), out + i);
  });
}

template <class T>
void silu_mul_backward_row(const T* gate_up, const T* dout, int64_t width, T* dgate_up) {
  const T *const gate = gate_up, *const up = gate_up + width;
  T *const dgate = dgate_up, *const dup = dgate_up + width;
  for_each_vector(width, [=](auto d, int64_t i) HWY_ATTR {
    const auto x = load_float(d, gate + i), dy = load_float(d, dout + i);
    const auto s = sigmoid(d, x);
    store_float(d, hn::Mul(dy, hn::Mul(x, s)), dup + i);
    store_float(d, hn::Mul(hn::Mul(dy, load_float(d, up + i)), silu_slope(d, x, s)), dgate + i);
  });
}

template <class T>
void sigmoid_mul_row(const T* x, const T* gate, int64_t width, T* out) {
  for_each_vector(width, [=](auto d, int64_t i) HWY_ATTR {
    store_float(d, sigmoid_or_nan(d, load_float(d, gate + i)), out + i);
    store_float(d, hn::Mul(load_float(d, out + i), load_float(d, x + i)), out + i);
  });
}

/// The gate's sigmoid comes from the same vector instructions at every row, where a library's
/// sigmoid of a column would depend on the row's place in it.
template <class T>
void scale_by_sigmoid_row(const T* x, const T* gate, int64_t width, T* out) {
  T rounded;
  store_float(One(), sigmoid_or_nan(One(), load_float(One(), gate)), &rounded);
  const float scale = hn::GetLane(load_float(One(), &rounded));
  for_each_vector(width, [=](auto d, int64_t i) HWY_ATTR {
    store_float(d, hn::Mul(hn::Set(d, scale), load_float(d, x + i)), out + i);
  });
}

template <class T>
void sigmoid_mul_backward_row(const SigmoidMulBackwardRow<T>& row, int64_t width) {
  for_each_vector(width, [row](auto d, int64_t i) HWY_ATTR {
    const auto s = sigmoid_or_nan(d, load_float(d, row.gate + i));
    const auto dy_s = hn::Mul(load_float(d, row.dout + i), s);
    if (row.dx != nullptr) store_float(d, dy_s, row.dx + i);
    if (row.dgate == nullptr) return;
    const auto slope = hn::Mul(dy_s, hn::Sub(hn::Set(d, 1.0f), s));
    store_float(d, hn::Mul(slope, load_float(d, row.x + i)), row.dgate + i);
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

template <class T>
void silu_mul_row(const T* gate_up, int64_t width, T* out) {
  LOCKSTEP_BEST_TARGET(silu_mul_row<T>)(gate_up, width, out);
}
LOCKSTEP_FOR_FLOAT_TYPES(silu_mul_row);

template <class T>
void silu_mul_backward_row(const T* gate_up, const T* dout, int64_t width, T* dgate_up) {
  LOCKSTEP_BEST_TARGET(silu_mul_backward_row<T>)(gate_up, dout, width, dgate_up);
}
LOCKSTEP_FOR_FLOAT_TYPES(silu_mul_backward_row);

template <class T>
void sigmoid_mul_row(const T* x, const T* gate, int64_t width, T* out) {
  LOCKSTEP_BEST_TARGET(sigmoid_mul_row<T>)(x, gate, width, out);
}
LOCKSTEP_FOR_FLOAT_TYPES(sigmoid_mul_row);

template <class T>
void scale_by_sigmoid_row(const T* x, const T* gate, int64_t width, T* out) {
  LOCKSTEP_BEST_TARGET(scale_by_sigmoid_row<T>)(x, gate, width, out);
}
LOCKSTEP_FOR_FLOAT_TYPES(scale_by_sigmoid_row);

template <class T>
void sigmoid_mul_backward_row(const SigmoidMulBackwardRow<T>& row, int64_t width) {
  LOCKSTEP_BEST_TARGET(sigmoid_mul_backward_row<T>)(row, width);
}
LOCKSTEP_FOR_FLOAT_TYPES(sigmoid_mul_backward_row);

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
