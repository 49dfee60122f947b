// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/adamw.h"

#include <cstddef>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/adamw.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "base/kernel_dispatch.h"
#include "ops/cpu/bfloat16-inl.h"
#include "ops/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

namespace {

template <class Run>
void adamw_step(const Run& run, int64_t count, const AdamWConstants& c) {
  for_each_vector(count, [run, &c](auto d, int64_t i) HWY_ATTR {
    const auto g = hn::Mul(load_float(d, run.gradient + i), hn::Set(d, c.gradient_scale));
    const auto old_m = hn::LoadU(d, run.exp_avg + i), old_v = hn::LoadU(d, run.exp_avg_sq + i);
    const auto p = hn::Mul(hn::LoadU(d, run.master + i), hn::Set(d, c.decay));
    const auto m = hn::MulAdd(hn::Sub(g, old_m), hn::Set(d, c.one_minus_beta1), old_m);
    const auto v = hn::MulAdd(hn::Mul(g, g), hn::Set(d, c.one_minus_beta2),
                              hn::Mul(old_v, hn::Set(d, c.beta2)));
    const auto denominator =
        hn::MulAdd(hn::Sqrt(v), hn::Set(d, c.inverse_root_correction2), hn::Set(d, c.eps));
    const auto updated = hn::NegMulAdd(hn::Set(d, c.step_size), hn::Div(m, denominator), p);
    hn::StoreU(m, d, run.exp_avg + i);
    hn::StoreU(v, d, run.exp_avg_sq + i);
    hn::StoreU(updated, d, run.master + i);
    if (run.weight) store_float(d, updated, run.weight + i);
  });
}

/// Squares of float32 are exact in float64, so only the additions round.
template <class T>
double sum_of_squares(const T* values, int64_t count) {
  const hn::ScalableTag<double> dd;
  const hn::Rebind<float, decltype(dd)> d;
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
    const double value = hn::GetLane(load_float(One(), values + i));
    sum += value * value;
  }
  return sum;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

template <class Run>
void adamw_step(const Run& run, int64_t count, const AdamWConstants& constants) {
  LOCKSTEP_BEST_TARGET(adamw_step<Run>)(run, count, constants);
}
template void adamw_step(const AdamWRun<float, float>&, int64_t, const AdamWConstants&);
template void adamw_step(const AdamWRun<float, uint16_t>&, int64_t, const AdamWConstants&);
template void adamw_step(const AdamWRun<uint16_t, float>&, int64_t, const AdamWConstants&);
template void adamw_step(const AdamWRun<uint16_t, uint16_t>&, int64_t, const AdamWConstants&);

template <class T>
double sum_of_squares(const T* values, int64_t count) {
  return LOCKSTEP_BEST_TARGET(sum_of_squares<T>)(values, count);
}
LOCKSTEP_FOR_FLOAT_TYPES(sum_of_squares);

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
