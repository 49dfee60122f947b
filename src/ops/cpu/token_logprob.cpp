// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/token_logprob.h"

#include <algorithm>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/token_logprob.cpp"
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

namespace {

constexpr size_t kUnroll = 8;

/// Copies a row to float32, fills it up with -infinity (which adds nothing to any sum), returns the
/// filled length.
template <class T>
size_t copy_padded(const T* logits, int64_t columns, float* to) {
  for_each_vector(columns, [=](auto d, int64_t i)
                               HWY_ATTR { hn::StoreU(load_float(d, logits + i), d, to + i); });
  const size_t size = static_cast<size_t>(columns), group = hn::Lanes(Float()) * kUnroll;
  const size_t padded = (size + group - 1) / group * group;
  std::fill(to + size, to + padded, -std::numeric_limits<float>::infinity());
  return padded;
}

HWY_INLINE float row_max(const float* row, size_t padded) {
  const Float d;
  const size_t lanes = hn::Lanes(d);
  auto max0 = hn::Set(d, -std::numeric_limits<float>::infinity()), max1 = max0;
  for (size_t i = 0; i < padded; i += 2 * lanes) {
    max0 = hn::Max(max0, hn::Load(d, row + i));
    max1 = hn::Max(max1, hn::Load(d, row + i + lanes));
  }
  return hn::GetLane(hn::MaxOfLanes(d, hn::Max(max0, max1)));
}

/// exp, but NaN stays NaN: Highway's makes it 0, and a broken row must not look sound.
HWY_INLINE hn::Vec<Float> exp_or_nan(hn::Vec<Float> x) {
  const Float d;
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(d, x));
}

HWY_INLINE void add_as_double(hn::Vec<Float> values, hn::Vec<hn::ScalableTag<double>>& sum) {
  const hn::ScalableTag<double> dd;
#if HWY_TARGET == HWY_SCALAR  // has no halves
  sum = hn::Add(sum, hn::PromoteTo(dd, values));
#else
  const hn::Half<Float> dh;
  sum = hn::Add(sum, hn::PromoteTo(dd, hn::LowerHalf(dh, values)));
  sum = hn::Add(sum, hn::PromoteTo(dd, hn::UpperHalf(dh, values)));
#endif
}

/// Sums of 8 vectors are a float32 tree, sums of those are float64: the error stays at 3 roundings
/// of float32.
template <bool kWeighted>
LogSumExp sum_exp(const float* row, size_t padded, float max, float inverse_temperature) {
  const Float d;
  const hn::ScalableTag<double> dd;
  const size_t lanes = hn::Lanes(d);
  const auto shift = hn::Set(d, max), scale = hn::Set(d, inverse_temperature);
  auto sum = hn::Zero(dd), weighted = hn::Zero(dd);
  for (size_t i = 0; i < padded; i += kUnroll * lanes) {
    hn::Vec<Float> pair[2], pair_weighted[2];
    for (size_t half = 0; half < 2; ++half) {
      auto partial = hn::Zero(d), partial_weighted = hn::Zero(d);
      for (size_t j = 0; j < kUnroll / 2; ++j) {
        const auto logit = hn::Load(d, row + i + (half * kUnroll / 2 + j) * lanes);
        const auto x = hn::Mul(hn::Sub(logit, shift), scale);
        const auto e = exp_or_nan(x);
        partial = hn::Add(partial, e);
        if constexpr (kWeighted)  // 0 exp(-infinity) counts as 0
          partial_weighted =
              hn::Add(partial_weighted, hn::IfThenZeroElse(hn::Eq(e, hn::Zero(d)), hn::Mul(e, x)));
      }
      pair[half] = partial;
      pair_weighted[half] = partial_weighted;
    }
    add_as_double(hn::Add(pair[0], pair[1]), sum);
    if constexpr (kWeighted) add_as_double(hn::Add(pair_weighted[0], pair_weighted[1]), weighted);
  }
  return {max, hn::GetLane(hn::SumOfLanes(dd, sum)), hn::GetLane(hn::SumOfLanes(dd, weighted))};
}

template <class T>
LogSumExp log_sum_exp(const T* logits,
                      int64_t columns,
                      float inverse_temperature,
                      bool with_weighted) {
  HWY_ALIGN float row[kMaxLogprobColumns + kUnroll * hn::MaxLanes(Float())];
  const size_t padded = copy_padded(logits, columns, row);
  const float max = row_max(row, padded);
  return with_weighted ? sum_exp<true>(row, padded, max, inverse_temperature)
                       : sum_exp<false>(row, padded, max, inverse_temperature);
}

/// What an entropy adds to the gradients of logits whose probabilities are exp(log_p).
template <class D>
HWY_INLINE hn::Vec<D> entropy_part(D d, hn::Vec<D> log_p, const LogprobRow& row) {
  const auto p = hn::Exp(d, log_p);
  const auto part =
      hn::Mul(hn::Mul(p, hn::Add(log_p, hn::Set(d, row.entropy))), hn::Set(d, -row.entropy_scale));
  return hn::IfThenZeroElse(hn::Eq(p, hn::Zero(d)), part);  // 0 log 0 counts as 0
}

template <bool kHasEntropy, class T>
void row_gradient(T* logits, int64_t columns, const LogprobRow& row) {
  const One one;
  const bool has_target = row.target >= 0 && row.target < columns;
  HWY_ALIGN float at_target[hn::MaxLanes(one)] = {0};
  if (has_target) hn::StoreU(load_float(one, logits + row.target), one, at_target);
  for_each_vector(columns, [logits, &row](auto d, int64_t i) HWY_ATTR {
    const auto x = hn::Mul(hn::Sub(load_float(d, logits + i), hn::Set(d, row.max)),
                           hn::Set(d, row.inverse_temperature));
    const auto log_p = hn::Sub(x, hn::Set(d, row.log_sum));
    auto gradient = hn::Mul(hn::Exp(d, log_p), hn::Set(d, -row.scale));
    if constexpr (kHasEntropy) gradient = hn::Add(gradient, entropy_part(d, log_p, row));
    store_float(d, gradient, logits + i);
  });
  if (!has_target) return;
  // 1 - p before the rounding, not after it: for a sure token p's rounding would be all of the
  // difference.
  const auto x = hn::Mul(hn::Sub(hn::LoadU(one, at_target), hn::Set(one, row.max)),
                         hn::Set(one, row.inverse_temperature));
  const auto log_p = hn::Sub(x, hn::Set(one, row.log_sum));
  const auto complement = hn::Neg(hn::Expm1(one, log_p));
  auto gradient = hn::Mul(complement, hn::Set(one, row.scale));
  if constexpr (kHasEntropy) gradient = hn::Add(gradient, entropy_part(one, log_p, row));
  store_float(one, gradient, logits + row.target);
}

template <class T>
void logprob_gradient(T* logits, int64_t columns, const LogprobRow& row) {
  if (row.entropy_scale == 0)
    row_gradient<false>(logits, columns, row);
  else
    row_gradient<true>(logits, columns, row);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

template <class T>
LogSumExp log_sum_exp(const T* logits,
                      int64_t columns,
                      float inverse_temperature,
                      bool with_weighted) {
  return LOCKSTEP_BEST_TARGET(log_sum_exp<T>)(logits, columns, inverse_temperature, with_weighted);
}
LOCKSTEP_FOR_FLOAT_TYPES(log_sum_exp);

template <class T>
void logprob_gradient(T* logits, int64_t columns, const LogprobRow& row) {
  LOCKSTEP_BEST_TARGET(logprob_gradient<T>)(logits, columns, row);
}
LOCKSTEP_FOR_FLOAT_TYPES(logprob_gradient);

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
