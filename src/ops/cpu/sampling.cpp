// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/sampling.h"

#include <cstddef>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/sampling.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "base/kernel_dispatch.h"
#include "hwy/contrib/math/math-inl.h"
#include "ops/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

float largest(const float* logits, int64_t count) {
  const Float d;
  auto max = hn::Set(d, -kInfinity);
  // Becomes NaN as soon as one logit is.
  auto bad = hn::Zero(d);
  float tail_max = -kInfinity, tail_bad = 0;
  const size_t size = static_cast<size_t>(count), lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    const auto value = hn::LoadU(d, logits + i);
    max = hn::Max(max, value);
    bad = hn::IfThenElse(hn::IsNaN(value), value, bad);
  }
  for (; i < size; ++i) {
    if (logits[i] > tail_max) tail_max = logits[i];
    if (logits[i] != logits[i]) tail_bad = logits[i];
  }
  const float bad_sum = hn::GetLane(hn::SumOfLanes(d, bad)) + tail_bad;
  if (bad_sum != bad_sum) return bad_sum;
  const float vector_max = hn::GetLane(hn::MaxOfLanes(d, max));
  return vector_max > tail_max ? vector_max : tail_max;
}

template <class D>
HWY_INLINE hn::Vec<D> weight_vector(D d, const float* logits, const WeightRule& rule) {
  const auto x = hn::Mul(hn::Sub(hn::LoadU(d, logits), hn::Set(d, rule.max)),
                         hn::Set(d, rule.inverse_temperature));
  const auto e = hn::Exp(d, x);
  return hn::IfThenElseZero(hn::Ge(e, hn::Set(d, rule.floor)), e);
}

void weights(const float* logits, int64_t count, const WeightRule& rule, float* out) {
  for_each_vector(count, [&](auto d, int64_t i) HWY_ATTR {
    hn::StoreU(weight_vector(d, logits + i, rule), d, out + i);
  });
}

double sum_of_weights(const float* logits, int64_t count, const WeightRule& rule) {
  const hn::ScalableTag<double> dd;
  const hn::Rebind<float, decltype(dd)> dh;
  HWY_ALIGN float e[kMaxWeightRun + hn::MaxLanes(dh)];
  HWY_NAMESPACE::weights(logits, count, rule, e);
  const size_t size = static_cast<size_t>(count), lanes = hn::Lanes(dh);
  for (size_t i = size; i < size + lanes; ++i) e[i] = 0;
  auto sum = hn::Zero(dd);
  for (size_t i = 0; i < size; i += lanes)
    sum = hn::Add(sum, hn::PromoteTo(dd, hn::LoadU(dh, e + i)));
  return hn::GetLane(hn::SumOfLanes(dd, sum));
}

int64_t indices_at_least(
    const float* logits, int64_t count, float threshold, int64_t first, int32_t* out) {
  int64_t found = 0;
  for_each_vector(count, [&](auto d, int64_t i) HWY_ATTR {
    const hn::RebindToSigned<decltype(d)> di;
    const auto mask = hn::Ge(hn::LoadU(d, logits + i), hn::Set(d, threshold));
    if (hn::AllFalse(d, mask)) return;
    const auto ids = hn::Iota(di, static_cast<int32_t>(first + i));
    found +=
        static_cast<int64_t>(hn::CompressStore(ids, hn::RebindMask(di, mask), di, out + found));
  });
  return found;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

float largest(const float* logits, int64_t count) {
  return LOCKSTEP_BEST_TARGET(largest)(logits, count);
}
void weights(const float* logits, int64_t count, const WeightRule& rule, float* out) {
  LOCKSTEP_BEST_TARGET(weights)(logits, count, rule, out);
}
double sum_of_weights(const float* logits, int64_t count, const WeightRule& rule) {
  return LOCKSTEP_BEST_TARGET(sum_of_weights)(logits, count, rule);
}
int64_t indices_at_least(
    const float* logits, int64_t count, float threshold, int64_t first, int32_t* out) {
  return LOCKSTEP_BEST_TARGET(indices_at_least)(logits, count, threshold, first, out);
}

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
