// sigmoid and silu of float32 vectors. For Highway kernels.
// SPDX-License-Identifier: Apache-2.0
#include <hwy/highway.h>

#include "hwy/contrib/math/math-inl.h"

#if defined(LOCKSTEP_OPS_CPU_SIGMOID_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOCKSTEP_OPS_CPU_SIGMOID_INL_H_
#undef LOCKSTEP_OPS_CPU_SIGMOID_INL_H_
#else
#define LOCKSTEP_OPS_CPU_SIGMOID_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// 1 / (1 + exp(-x)), by exp(-|x|), which cannot overflow. Of NaN: a number; multiply by x.
template <class D>
HWY_INLINE hn::Vec<D> sigmoid(D d, hn::Vec<D> x) {
  const auto one = hn::Set(d, 1.0F);
  const auto e = hn::Exp(d, hn::Neg(hn::Abs(x)));
  const auto numerator = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), e, one);
  return hn::Div(numerator, hn::Add(one, e));
}

/// The derivative of x sigmoid(x), from both: s (1 + x (1 - s)).
template <class D>
HWY_INLINE hn::Vec<D> silu_slope(D d, hn::Vec<D> x, hn::Vec<D> s) {
  const auto one = hn::Set(d, 1.0F);
  return hn::Mul(s, hn::MulAdd(x, hn::Sub(one, s), one));
}

}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#endif
