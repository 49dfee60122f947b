// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/rms_norm.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/rms_norm.cpp"
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

/// sum of term(i) over a row, in four interleaved chains of vectors: an order that depends on the
/// length alone.
template <class Term>
HWY_INLINE float sum_row(int64_t columns, const Term& term) {
  const Float d;
  const One one;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sum0 = hn::Zero(d), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  int64_t i = 0;
  for (; i + 4 * lanes <= columns; i += 4 * lanes) {
    sum0 = hn::Add(sum0, term(d, i));
    sum1 = hn::Add(sum1, term(d, i + lanes));
    sum2 = hn::Add(sum2, term(d, i + 2 * lanes));
    sum3 = hn::Add(sum3, term(d, i + 3 * lanes));
  }
  for (; i + lanes <= columns; i += lanes) sum0 = hn::Add(sum0, term(d, i));
  auto rest = hn::Zero(one);
  for (; i < columns; ++i) rest = hn::Add(rest, term(one, i));
  const auto sum = hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3));
  return hn::GetLane(hn::SumOfLanes(d, sum)) + hn::GetLane(rest);
}

template <class T>
struct Square {
  const T* x;
  template <class D>
  HWY_INLINE hn::Vec<D> operator()(D d, int64_t i) const {
    const auto value = load_float(d, x + i);
    return hn::Mul(value, value);
  }
};

/// dn n, the terms of the projection that dx takes out.
template <class T>
struct Projection {
  const T *x, *dy;
  const float* gain;
  template <class D>
  HWY_INLINE hn::Vec<D> operator()(D d, int64_t i) const {
    const auto dn = hn::Mul(load_float(d, dy + i), hn::LoadU(d, gain + i));
    return hn::Mul(dn, load_float(d, x + i));
  }
};

template <class T>
float inverse_rms(const RmsNormInputs<T>& in, const T* x) {
  const float mean = sum_row(in.columns, Square<T>{x}) / static_cast<float>(in.columns);
  return 1.0f / std::sqrt(mean + in.eps);
}

/// y = x rstd gain.
template <class T>
HWY_INLINE void norm_row(const RmsNormInputs<T>& in, const T* x, T* y) {
  const float rstd = inverse_rms(in, x);
  for_each_vector(in.columns, [=, gain = in.gain, round_before_gain = in.round_before_gain](
                                  auto d, int64_t i) HWY_ATTR {
    auto n = hn::Mul(load_float(d, x + i), hn::Set(d, rstd));
    if (round_before_gain) {
      store_float(d, n, y + i);
      n = load_float(d, y + i);
    }
    store_float(d, hn::Mul(n, hn::LoadU(d, gain + i)), y + i);
  });
}

template <class T>
void rms_norm_rows(const RmsNormInputs<T>& in, RowRange rows, T* y) {
  for (int64_t r = rows.begin; r < rows.end; ++r) norm_row(in, in.row(r), y + r * in.columns);
}

template <class T>
void add_rms_norm_rows(const RmsNormInputs<T>& in, RowRange rows, const T* residual, T* sum, T* y) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const int64_t offset = r * in.columns;
    const T *const x = in.row(r), *const added = residual + offset;
    T* const to = sum + offset;
    for_each_vector(in.columns, [=](auto d, int64_t i) HWY_ATTR {
      store_float(d, hn::Add(load_float(d, x + i), load_float(d, added + i)), to + i);
    });
    norm_row(in, to, y + offset);
  }
}

/// One row of the backward.
template <class T>
struct BackwardRow {
  const T *x, *dy, *dsum;
  const float* gain;
  /// projection is mean(dn n) rstd.
  float rstd, projection;
  T* dx;
  float* dgain;

  template <class D>
  HWY_INLINE void operator()(D d, int64_t i) const {
    const auto n = hn::Mul(load_float(d, x + i), hn::Set(d, rstd));
    const auto dy_i = load_float(d, dy + i);
    if (dgain != nullptr) hn::StoreU(hn::MulAdd(dy_i, n, hn::LoadU(d, dgain + i)), d, dgain + i);
    if (dx == nullptr) return;
    const auto dn = hn::Mul(dy_i, hn::LoadU(d, gain + i));
    auto own = hn::Mul(hn::NegMulAdd(n, hn::Set(d, projection), dn), hn::Set(d, rstd));
    if (dsum != nullptr) own = hn::Add(own, load_float(d, dsum + i));
    store_float(d, own, dx + i);
  }
};

template <class T>
void rms_norm_backward_rows(const RmsNormInputs<T>& in,
                            RowRange rows,
                            const RmsNormGradients<T>& gradients) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const int64_t offset = r * in.columns;
    const T* x = in.row(r);
    const T* dy = gradients.dy + offset;
    const T* dsum = gradients.dsum == nullptr ? nullptr : gradients.dsum + offset;
    T* dx = gradients.dx == nullptr ? nullptr : gradients.dx + offset;
    const float rstd = inverse_rms(in, x);
    const float sum = sum_row(in.columns, Projection<T>{x, dy, in.gain});
    const float projection = sum * rstd / static_cast<float>(in.columns);
    for_each_vector(in.columns,
                    BackwardRow<T>{x, dy, dsum, in.gain, rstd, projection, dx, gradients.dgain});
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

template <class T>
void rms_norm_rows(const RmsNormInputs<T>& inputs, RowRange rows, T* y) {
  LOCKSTEP_BEST_TARGET(rms_norm_rows<T>)(inputs, rows, y);
}
LOCKSTEP_FOR_FLOAT_TYPES(rms_norm_rows);

template <class T>
void add_rms_norm_rows(
    const RmsNormInputs<T>& inputs, RowRange rows, const T* residual, T* sum, T* y) {
  LOCKSTEP_BEST_TARGET(add_rms_norm_rows<T>)(inputs, rows, residual, sum, y);
}
LOCKSTEP_FOR_FLOAT_TYPES(add_rms_norm_rows);

template <class T>
void rms_norm_backward_rows(const RmsNormInputs<T>& inputs,
                            RowRange rows,
                            const RmsNormGradients<T>& gradients) {
  LOCKSTEP_BEST_TARGET(rms_norm_backward_rows<T>)(inputs, rows, gradients);
}
LOCKSTEP_FOR_FLOAT_TYPES(rms_norm_backward_rows);

void add_partial_rows(const float* partials, int64_t count, int64_t columns, float* sums) {
  for (int64_t b = 0; b < count; ++b)
    for (int64_t i = 0; i < columns; ++i) sums[i] += partials[b * columns + i];
}

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
