// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/adamw.h"

#include <cstddef>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/adamw.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/bfloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D, class W, class G>
HWY_INLINE void adamw_vector(
    D d, const AdamWState& state, W* weight, const G* gradient, size_t i, const AdamWConstants& c) {
  const auto g = hn::Mul(load_float(d, gradient + i), hn::Set(d, c.gradient_scale));
  const auto old_m = hn::LoadU(d, state.exp_avg + i), old_v = hn::LoadU(d, state.exp_avg_sq + i);
  const auto p = hn::Mul(hn::LoadU(d, state.master + i), hn::Set(d, c.decay));
  const auto m = hn::MulAdd(hn::Sub(g, old_m), hn::Set(d, c.one_minus_beta1), old_m);
  const auto v =
      hn::MulAdd(hn::Mul(g, g), hn::Set(d, c.one_minus_beta2), hn::Mul(old_v, hn::Set(d, c.beta2)));
  const auto denominator =
      hn::MulAdd(hn::Sqrt(v), hn::Set(d, c.inverse_root_correction2), hn::Set(d, c.eps));
  const auto updated = hn::NegMulAdd(hn::Set(d, c.step_size), hn::Div(m, denominator), p);
  hn::StoreU(m, d, state.exp_avg + i);
  hn::StoreU(v, d, state.exp_avg_sq + i);
  hn::StoreU(updated, d, state.master + i);
  if (weight) store_float(d, updated, weight + i);
}

template <class W, class G>
void adamw_of(
    AdamWState state, W* weight, const G* gradient, int64_t count, const AdamWConstants& c) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const size_t size = static_cast<size_t>(count), lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) adamw_vector(d, state, weight, gradient, i, c);
  for (; i < size; ++i) adamw_vector(one, state, weight, gradient, i, c);
}

/// Squares of float32 are exact in float64, so only the additions round.
template <class T>
double sum_of_squares_of(const T* values, int64_t count) {
  const hn::ScalableTag<double> dd;
  const hn::Rebind<float, decltype(dd)> d;
  const hn::CappedTag<float, 1> one;
  const size_t size = static_cast<size_t>(count), lanes = hn::Lanes(d);
  auto sum0 = hn::Zero(dd), sum1 = sum0;
  size_t i = 0;
  for (; i + 2 * lanes <= size; i += 2 * lanes) {
    const auto a = hn::PromoteTo(dd, load_float(d, values + i));
    const auto b = hn::PromoteTo(dd, load_float(d, values + i + lanes));
    sum0 = hn::MulAdd(a, a, sum0);
    sum1 = hn::MulAdd(b, b, sum1);
  }
  double sum = hn::GetLane(hn::SumOfLanes(dd, hn::Add(sum0, sum1)));
  for (; i < size; ++i) {
    const double value = hn::GetLane(load_float(one, values + i));
    sum += value * value;
  }
  return sum;
}

void adamw_f32_f32(AdamWState s, float* w, const float* g, int64_t count, const AdamWConstants& c) {
  adamw_of(s, w, g, count, c);
}
void adamw_f32_bf16(
    AdamWState s, float* w, const uint16_t* g, int64_t count, const AdamWConstants& c) {
  adamw_of(s, w, g, count, c);
}
void adamw_bf16_f32(
    AdamWState s, uint16_t* w, const float* g, int64_t count, const AdamWConstants& c) {
  adamw_of(s, w, g, count, c);
}
void adamw_bf16_bf16(
    AdamWState s, uint16_t* w, const uint16_t* g, int64_t count, const AdamWConstants& c) {
  adamw_of(s, w, g, count, c);
}
double sum_of_squares_f32(const float* values, int64_t count) {
  return sum_of_squares_of(values, count);
}
double sum_of_squares_bf16(const uint16_t* values, int64_t count) {
  return sum_of_squares_of(values, count);
}

}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

HWY_EXPORT(adamw_f32_f32);
HWY_EXPORT(adamw_f32_bf16);
HWY_EXPORT(adamw_bf16_f32);
HWY_EXPORT(adamw_bf16_bf16);
HWY_EXPORT(sum_of_squares_f32);
HWY_EXPORT(sum_of_squares_bf16);

void adamw_step(AdamWState s, float* w, const float* g, int64_t count, const AdamWConstants& c) {
  HWY_DYNAMIC_DISPATCH(adamw_f32_f32)(s, w, g, count, c);
}
void adamw_step(AdamWState s, float* w, const uint16_t* g, int64_t count, const AdamWConstants& c) {
  HWY_DYNAMIC_DISPATCH(adamw_f32_bf16)(s, w, g, count, c);
}
void adamw_step(AdamWState s, uint16_t* w, const float* g, int64_t count, const AdamWConstants& c) {
  HWY_DYNAMIC_DISPATCH(adamw_bf16_f32)(s, w, g, count, c);
}
void adamw_step(
    AdamWState s, uint16_t* w, const uint16_t* g, int64_t count, const AdamWConstants& c) {
  HWY_DYNAMIC_DISPATCH(adamw_bf16_bf16)(s, w, g, count, c);
}
double sum_of_squares(const float* values, int64_t count) {
  return HWY_DYNAMIC_DISPATCH(sum_of_squares_f32)(values, count);
}
double sum_of_squares(const uint16_t* values, int64_t count) {
  return HWY_DYNAMIC_DISPATCH(sum_of_squares_bf16)(values, count);
}

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
