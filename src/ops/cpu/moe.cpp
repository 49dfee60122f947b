// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/moe.h"

#include <cstddef>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/moe.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "hwy/contrib/math/math-inl.h"
#include "ops/cpu/bfloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using One = hn::CappedTag<float, 1>;

template <class T>
HWY_INLINE float load_one(const T* from) {
  return hn::GetLane(load_float(One(), from));
}

template <class T>
HWY_INLINE void store_one(float value, T* to) {
  store_float(One(), hn::Set(One(), value), to);
}

/// Vectors first, then one element at a time: visit(tag, index).
template <class Visit>
HWY_INLINE void for_each_vector(int64_t count, Visit&& visit) {
  const hn::ScalableTag<float> d;
  const size_t size = static_cast<size_t>(count), lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) visit(d, i);
  for (; i < size; ++i) visit(One(), i);
}

/// Softmax in float32; NaN stays NaN, which Highway's exp would make 0.
template <class T>
void softmax_row(const T* logits, int64_t count, float* p) {
  float max = load_one(logits);
  for (int64_t i = 1; i < count; ++i) {
    const float logit = load_one(logits + i);
    if (logit > max) max = logit;
  }
  for_each_vector(count, [&](auto d, size_t i) HWY_ATTR {
    const auto x = hn::Sub(load_float(d, logits + i), hn::Set(d, max));
    hn::StoreU(hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(d, x)), d, p + i);
  });
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += p[i];
  const auto inverse = static_cast<float>(1 / sum);
  for (int64_t i = 0; i < count; ++i) p[i] *= inverse;
}

/// The ids of the K largest logits, in descending order. Compares logits rather than probabilities:
/// the same order, free of the rounding of exp.
template <class T>
void choose_row(const T* logits, const RouteShape& shape, int64_t* experts) {
  int64_t kept = 0;
  for (int64_t id = 0; id < shape.num_experts; ++id) {
    const float logit = load_one(logits + id);
    int64_t place = kept;
    while (place > 0 && logit > load_one(logits + experts[place - 1])) --place;
    if (place == shape.num_chosen) continue;
    if (kept < shape.num_chosen) ++kept;
    for (int64_t i = kept - 1; i > place; --i) experts[i] = experts[i - 1];
    experts[place] = id;
  }
}

/// 1 / sum of the chosen probabilities, or 1 where they are not renormalised.
HWY_INLINE float inverse_mass(const float* p, const int64_t* experts, const RouteShape& shape) {
  if (!shape.renormalize) return 1;
  double mass = 0;
  for (int64_t k = 0; k < shape.num_chosen; ++k) mass += p[experts[k]];
  return static_cast<float>(1 / mass);
}

template <class T>
void route_row_of(
    const T* logits, const RouteShape& shape, float* p, T* weights, int64_t* experts) {
  softmax_row(logits, shape.num_experts, p);
  choose_row(logits, shape, experts);
  const float inverse = inverse_mass(p, experts, shape);
  for (int64_t k = 0; k < shape.num_chosen; ++k) store_one(p[experts[k]] * inverse, weights + k);
}

/// With w = p / sum of the chosen p: dlogit = w (dw - sum dw w) on the chosen and 0 elsewhere,
/// since the softmax's own sum cancels. Without renormalisation: dlogit = p (dw - sum dw p), dw = 0
/// where not chosen.
template <class T>
void route_backward_row_of(const T* logits,
                           const int64_t* experts,
                           const T* dweights,
                           const RouteShape& shape,
                           float* p,
                           T* dlogits) {
  softmax_row(logits, shape.num_experts, p);
  const float inverse = inverse_mass(p, experts, shape);
  double mean = 0;
  for (int64_t k = 0; k < shape.num_chosen; ++k)
    mean += static_cast<double>(load_one(dweights + k)) * (p[experts[k]] * inverse);
  const auto shift = static_cast<float>(mean);
  for (int64_t id = 0; id < shape.num_experts; ++id)
    store_one(shape.renormalize ? 0.0f : -p[id] * shift, dlogits + id);
  for (int64_t k = 0; k < shape.num_chosen; ++k)
    store_one(p[experts[k]] * inverse * (load_one(dweights + k) - shift), dlogits + experts[k]);
}

template <class T>
void combine_rows_of(const ExpertRows<T>& token, T* out) {
  for_each_vector(token.width, [&](auto d, size_t i) HWY_ATTR {
    auto sum = hn::Zero(d);
    for (int64_t k = 0; k < token.num_chosen; ++k) {
      const auto value = load_float(d, token.table + token.rows[k] * token.width + i);
      sum = token.weights ? hn::MulAdd(hn::Set(d, load_one(token.weights + k)), value, sum)
                          : hn::Add(sum, value);
    }
    store_float(d, sum, out + i);
  });
}

template <class T>
float scale_and_dot_of(T* a, T* b, float weight, int64_t width) {
  const hn::ScalableTag<float> d;
  auto sum = hn::Zero(d);
  float tail = 0;
  for_each_vector(width, [&](auto tag, size_t i) HWY_ATTR {
    const auto va = load_float(tag, a + i), vb = load_float(tag, b + i);
    if constexpr (hn::MaxLanes(decltype(tag)()) == hn::MaxLanes(hn::ScalableTag<float>()))
      sum = hn::MulAdd(va, vb, sum);
    else
      tail += hn::GetLane(hn::Mul(va, vb));
    store_float(tag, hn::Mul(va, hn::Set(tag, weight)), a + i);
    store_float(tag, hn::Mul(vb, hn::Set(tag, weight)), b + i);
  });
  return hn::GetLane(hn::SumOfLanes(d, sum)) + tail;
}

void route_row_f32(const float* l, const RouteShape& s, float* p, float* w, int64_t* e) {
  route_row_of(l, s, p, w, e);
}
void route_row_bf16(const uint16_t* l, const RouteShape& s, float* p, uint16_t* w, int64_t* e) {
  route_row_of(l, s, p, w, e);
}
void route_backward_row_f32(
    const float* l, const int64_t* e, const float* dw, const RouteShape& s, float* p, float* dl) {
  route_backward_row_of(l, e, dw, s, p, dl);
}
void route_backward_row_bf16(const uint16_t* l,
                             const int64_t* e,
                             const uint16_t* dw,
                             const RouteShape& s,
                             float* p,
                             uint16_t* dl) {
  route_backward_row_of(l, e, dw, s, p, dl);
}
void combine_rows_f32(const ExpertRows<float>& token, float* out) { combine_rows_of(token, out); }
void combine_rows_bf16(const ExpertRows<uint16_t>& token, uint16_t* out) {
  combine_rows_of(token, out);
}
float scale_and_dot_f32(float* a, float* b, float weight, int64_t width) {
  return scale_and_dot_of(a, b, weight, width);
}
float scale_and_dot_bf16(uint16_t* a, uint16_t* b, float weight, int64_t width) {
  return scale_and_dot_of(a, b, weight, width);
}

}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

HWY_EXPORT(route_row_f32);
HWY_EXPORT(route_row_bf16);
HWY_EXPORT(route_backward_row_f32);
HWY_EXPORT(route_backward_row_bf16);
HWY_EXPORT(combine_rows_f32);
HWY_EXPORT(combine_rows_bf16);
HWY_EXPORT(scale_and_dot_f32);
HWY_EXPORT(scale_and_dot_bf16);

void route_row(const float* l, const RouteShape& s, float* p, float* w, int64_t* e) {
  HWY_DYNAMIC_DISPATCH(route_row_f32)(l, s, p, w, e);
}
void route_row(const uint16_t* l, const RouteShape& s, float* p, uint16_t* w, int64_t* e) {
  HWY_DYNAMIC_DISPATCH(route_row_bf16)(l, s, p, w, e);
}
void route_backward_row(
    const float* l, const int64_t* e, const float* dw, const RouteShape& s, float* p, float* dl) {
  HWY_DYNAMIC_DISPATCH(route_backward_row_f32)(l, e, dw, s, p, dl);
}
void route_backward_row(const uint16_t* l,
                        const int64_t* e,
                        const uint16_t* dw,
                        const RouteShape& s,
                        float* p,
                        uint16_t* dl) {
  HWY_DYNAMIC_DISPATCH(route_backward_row_bf16)(l, e, dw, s, p, dl);
}
void combine_rows(const ExpertRows<float>& token, float* out) {
  HWY_DYNAMIC_DISPATCH(combine_rows_f32)(token, out);
}
void combine_rows(const ExpertRows<uint16_t>& token, uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(combine_rows_bf16)(token, out);
}
float scale_and_dot(float* a, float* b, float weight, int64_t width) {
  return HWY_DYNAMIC_DISPATCH(scale_and_dot_f32)(a, b, weight, width);
}
float scale_and_dot(uint16_t* a, uint16_t* b, float weight, int64_t width) {
  return HWY_DYNAMIC_DISPATCH(scale_and_dot_bf16)(a, b, weight, width);
}

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
