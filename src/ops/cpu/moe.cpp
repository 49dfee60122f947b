// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/moe.h"

#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/moe.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "base/kernel_dispatch.h"
#include "hwy/contrib/math/math-inl.h"
#include "ops/cpu/bfloat16-inl.h"
#include "ops/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
HWY_INLINE float load_one(const T* from) {
  return hn::GetLane(load_float(One(), from));
}

template <class T>
HWY_INLINE void store_one(float value, T* to) {
  store_float(One(), hn::Set(One(), value), to);
}

/// Softmax in float32; NaN stays NaN, which Highway's exp would make 0.
template <class T>
void softmax_row(const T* logits, int64_t count, float* p) {
  float max = load_one(logits);
  for (int64_t i = 1; i < count; ++i) {
    const float logit = load_one(logits + i);
    if (logit > max) max = logit;
  }
  for_each_vector(count, [&](auto d, int64_t i) HWY_ATTR {
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
void weigh_row(
    const T* logits, const int64_t* experts, const RouteShape& shape, float* p, T* weights) {
  softmax_row(logits, shape.num_experts, p);
  const float inverse = inverse_mass(p, experts, shape);
  for (int64_t k = 0; k < shape.num_chosen; ++k) store_one(p[experts[k]] * inverse, weights + k);
}

template <class T>
void route_row(const T* logits, const RouteShape& shape, float* p, T* weights, int64_t* experts) {
  choose_row(logits, shape, experts);
  HWY_NAMESPACE::weigh_row(logits, experts, shape, p, weights);
}

/// With w = p / sum of the chosen p: dlogit = w (dw - sum dw w) on the chosen and 0 elsewhere,
/// since the softmax's own sum cancels. Without renormalisation: dlogit = p (dw - sum dw p), dw = 0
/// where not chosen.
template <class T>
void route_backward_row(const T* logits,
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
void combine_rows(const ExpertRows<T>& token, T* out) {
  for_each_vector(token.width, [&](auto d, int64_t i) HWY_ATTR {
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
float scale_and_dot(T* a, T* b, float weight, int64_t width) {
  const Float d;
  auto sum = hn::Zero(d);
  float tail = 0;
  for_each_vector(width, [&](auto tag, int64_t i) HWY_ATTR {
    const auto va = load_float(tag, a + i), vb = load_float(tag, b + i);
    if constexpr (std::is_same_v<decltype(tag), Float>)
      sum = hn::MulAdd(va, vb, sum);
    else
      tail += hn::GetLane(hn::Mul(va, vb));
    store_float(tag, hn::Mul(va, hn::Set(tag, weight)), a + i);
    store_float(tag, hn::Mul(vb, hn::Set(tag, weight)), b + i);
  });
  return hn::GetLane(hn::SumOfLanes(d, sum)) + tail;
}

}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

template <class T>
void route_row(
    const T* logits, const RouteShape& shape, float* scratch, T* weights, int64_t* experts) {
  LOCKSTEP_BEST_TARGET(route_row<T>)(logits, shape, scratch, weights, experts);
}
LOCKSTEP_FOR_FLOAT_TYPES(route_row);

template <class T>
void weigh_row(
    const T* logits, const int64_t* experts, const RouteShape& shape, float* scratch, T* weights) {
  LOCKSTEP_BEST_TARGET(weigh_row<T>)(logits, experts, shape, scratch, weights);
}
LOCKSTEP_FOR_FLOAT_TYPES(weigh_row);

template <class T>
void route_backward_row(const T* logits,
                        const int64_t* experts,
                        const T* dweights,
                        const RouteShape& shape,
                        float* scratch,
                        T* dlogits) {
  LOCKSTEP_BEST_TARGET(route_backward_row<T>)(logits, experts, dweights, shape, scratch, dlogits);
}
LOCKSTEP_FOR_FLOAT_TYPES(route_backward_row);

template <class T>
void combine_rows(const ExpertRows<T>& token, T* out) {
  LOCKSTEP_BEST_TARGET(combine_rows<T>)(token, out);
}
LOCKSTEP_FOR_FLOAT_TYPES(combine_rows);

template <class T>
float scale_and_dot(T* a, T* b, float weight, int64_t width) {
  return LOCKSTEP_BEST_TARGET(scale_and_dot<T>)(a, b, weight, width);
}
LOCKSTEP_FOR_FLOAT_TYPES(scale_and_dot);

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
