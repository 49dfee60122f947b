// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/causal_conv.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/causal_conv.cpp"
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

template <class D>
HWY_INLINE hn::Vec<D> round_to([[maybe_unused]] D d, hn::Vec<D> x, const float*) {
  return x;
}
/// What store_float and load_float make of x, in registers. NaN stays.
template <class D>
HWY_INLINE hn::Vec<D> round_to(D d, hn::Vec<D> x, const uint16_t*) {
  const hn::RebindToUnsigned<D> d32;
  const auto bits = hn::BitCast(d32, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1U));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7FFFU)));
  const auto high = hn::BitCast(d, hn::And(rounded, hn::Set(d32, 0xFFFF0000U)));
  return hn::IfThenElse(hn::IsNaN(x), x, high);
}

/// The sum of taps, rounded to the inputs' dtype.
template <class D, class T>
HWY_INLINE hn::Vec<D> sum_of_taps(D d, const ConvTaps& conv, const T* const* taps, int64_t c) {
  auto sum = hn::Zero(d);
  for (int64_t j = 0; j < conv.width; ++j)
    sum = hn::MulAdd(hn::LoadU(d, conv.weight + j * conv.stride + c), load_float(d, taps[j] + c),
                     sum);
  return round_to(d, sum, taps[0]);
}

template <class T>
void conv_row(const ConvTaps& conv, const T* const* taps, T* out) {
  for_each_vector(conv.channels, [&](auto d, int64_t c) HWY_ATTR {
    const auto p = sum_of_taps(d, conv, taps, c);
    store_float(d, hn::Mul(p, sigmoid(d, p)), out + c);
  });
}

template <class T>
void conv_row_gradient(const ConvTaps& conv,
                       const T* const* taps,
                       const T* out_gradient,
                       float* sum_gradient,
                       float* weight_gradient) {
  for_each_vector(conv.channels, [&](auto d, int64_t c) HWY_ATTR {
    const auto p = sum_of_taps(d, conv, taps, c);
    const auto dp = hn::Mul(load_float(d, out_gradient + c), silu_slope(d, p, sigmoid(d, p)));
    hn::StoreU(dp, d, sum_gradient + c);
    if (!weight_gradient) return;
    for (int64_t j = 0; j < conv.width; ++j) {
      float* to = weight_gradient + j * conv.stride + c;
      hn::StoreU(hn::MulAdd(dp, load_float(d, taps[j] + c), hn::LoadU(d, to)), d, to);
    }
  });
}

template <class T>
void conv_input_gradient(const ConvTaps& conv, const float* const* sum_gradients, T* gradient) {
  for_each_vector(conv.channels, [&](auto d, int64_t c) HWY_ATTR {
    auto sum = hn::Zero(d);
    for (int64_t j = 0; j < conv.width; ++j) {
      if (!sum_gradients[j]) continue;
      sum = hn::MulAdd(hn::LoadU(d, conv.weight + j * conv.stride + c),
                       hn::LoadU(d, sum_gradients[j] + c), sum);
    }
    store_float(d, sum, gradient + c);
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

template <class T>
void conv_row(const ConvTaps& conv, const T* const* taps, T* out) {
  LOCKSTEP_BEST_TARGET(conv_row<T>)(conv, taps, out);
}
LOCKSTEP_FOR_FLOAT_TYPES(conv_row);

template <class T>
void conv_row_gradient(const ConvTaps& conv,
                       const T* const* taps,
                       const T* out_gradient,
                       float* sum_gradient,
                       float* weight_gradient) {
  LOCKSTEP_BEST_TARGET(conv_row_gradient<T>)
  (conv, taps, out_gradient, sum_gradient, weight_gradient);
}
LOCKSTEP_FOR_FLOAT_TYPES(conv_row_gradient);

template <class T>
void conv_input_gradient(const ConvTaps& conv, const float* const* sum_gradients, T* gradient) {
  LOCKSTEP_BEST_TARGET(conv_input_gradient<T>)(conv, sum_gradients, gradient);
}
LOCKSTEP_FOR_FLOAT_TYPES(conv_input_gradient);

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
