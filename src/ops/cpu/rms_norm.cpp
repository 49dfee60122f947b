// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/rms_norm.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/rms_norm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/bfloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

using Float = hn::ScalableTag<float>;
using One = hn::CappedTag<float, 1>;

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

/// One row of the forward.
template <class T>
struct ForwardRow {
  const T* x;
  const float* gain;
  float rstd;
  bool round_before_gain;
  T* y;

  template <class D>
  HWY_INLINE void step(D d, int64_t i) const {
    auto n = hn::Mul(load_float(d, x + i), hn::Set(d, rstd));
    if (round_before_gain) {
      store_float(d, n, y + i);
      n = load_float(d, y + i);
    }
    store_float(d, hn::Mul(n, hn::LoadU(d, gain + i)), y + i);
  }
};

template <class Row>
HWY_INLINE void for_columns(int64_t columns, const Row& row) {
  const Float d;
  const One one;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= columns; i += lanes) row.step(d, i);
  for (; i < columns; ++i) row.step(one, i);
}

/// to = round(x + residual).
template <class T>
struct AddRow {
  const T *x, *residual;
  T* to;

  template <class D>
  HWY_INLINE void step(D d, int64_t i) const {
    store_float(d, hn::Add(load_float(d, x + i), load_float(d, residual + i)), to + i);
  }
};

template <class T>
HWY_INLINE void norm_row(const RmsNormInputs<T>& in, const T* x, T* y) {
  for_columns(in.columns, ForwardRow<T>{x, in.gain, inverse_rms(in, x), in.round_before_gain, y});
}

template <class T>
void norm_rows(const RmsNormInputs<T>& in, RowRange rows, T* y) {
  for (int64_t r = rows.begin; r < rows.end; ++r) norm_row(in, in.row(r), y + r * in.columns);
}

template <class T>
void add_norm_rows(const RmsNormInputs<T>& in, RowRange rows, const T* residual, T* sum, T* y) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const int64_t offset = r * in.columns;
    for_columns(in.columns, AddRow<T>{in.row(r), residual + offset, sum + offset});
    norm_row(in, sum + offset, y + offset);
  }
}

/// One row of the backward.
template <class T>
struct BackwardRow {
  const T *x, *dy, *dsum;
  const float* gain;
  /// mean(dn n) rstd
  float rstd, projection;
  T* dx;
  float* dgain;

  template <class D>
  HWY_INLINE void step(D d, int64_t i) const {
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
void backward_rows(const RmsNormInputs<T>& in, RowRange rows, const RmsNormGradients<T>& grads) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const int64_t offset = r * in.columns;
    const T* x = in.row(r);
    const T* dy = grads.dy + offset;
    const T* dsum = grads.dsum == nullptr ? nullptr : grads.dsum + offset;
    T* dx = grads.dx == nullptr ? nullptr : grads.dx + offset;
    const float rstd = inverse_rms(in, x);
    const float sum = sum_row(in.columns, Projection<T>{x, dy, in.gain});
    const float projection = sum * rstd / static_cast<float>(in.columns);
    for_columns(in.columns,
                BackwardRow<T>{x, dy, dsum, in.gain, rstd, projection, dx, grads.dgain});
  }
}

void norm_rows_f32(const RmsNormInputs<float>& inputs, RowRange rows, float* y) {
  norm_rows(inputs, rows, y);
}
void norm_rows_bf16(const RmsNormInputs<uint16_t>& inputs, RowRange rows, uint16_t* y) {
  norm_rows(inputs, rows, y);
}
void add_norm_rows_f32(const RmsNormInputs<float>& inputs,
                       RowRange rows,
                       const float* residual,
                       float* sum,
                       float* y) {
  add_norm_rows(inputs, rows, residual, sum, y);
}
void add_norm_rows_bf16(const RmsNormInputs<uint16_t>& inputs,
                        RowRange rows,
                        const uint16_t* residual,
                        uint16_t* sum,
                        uint16_t* y) {
  add_norm_rows(inputs, rows, residual, sum, y);
}
void backward_rows_f32(const RmsNormInputs<float>& in,
                       RowRange rows,
                       const RmsNormGradients<float>& gradients) {
  backward_rows(in, rows, gradients);
}
void backward_rows_bf16(const RmsNormInputs<uint16_t>& in,
                        RowRange rows,
                        const RmsNormGradients<uint16_t>& gradients) {
  backward_rows(in, rows, gradients);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

HWY_EXPORT(norm_rows_f32);
HWY_EXPORT(norm_rows_bf16);
HWY_EXPORT(add_norm_rows_f32);
HWY_EXPORT(add_norm_rows_bf16);
HWY_EXPORT(backward_rows_f32);
HWY_EXPORT(backward_rows_bf16);

void rms_norm_rows(const RmsNormInputs<float>& inputs, RowRange rows, float* y) {
  HWY_DYNAMIC_DISPATCH(norm_rows_f32)(inputs, rows, y);
}
void rms_norm_rows(const RmsNormInputs<uint16_t>& inputs, RowRange rows, uint16_t* y) {
  HWY_DYNAMIC_DISPATCH(norm_rows_bf16)(inputs, rows, y);
}
void add_rms_norm_rows(const RmsNormInputs<float>& inputs,
                       RowRange rows,
                       const float* residual,
                       float* sum,
                       float* y) {
  HWY_DYNAMIC_DISPATCH(add_norm_rows_f32)(inputs, rows, residual, sum, y);
}
void add_rms_norm_rows(const RmsNormInputs<uint16_t>& inputs,
                       RowRange rows,
                       const uint16_t* residual,
                       uint16_t* sum,
                       uint16_t* y) {
  HWY_DYNAMIC_DISPATCH(add_norm_rows_bf16)(inputs, rows, residual, sum, y);
}
void rms_norm_backward_rows(const RmsNormInputs<float>& inputs,
                            RowRange rows,
                            const RmsNormGradients<float>& gradients) {
  HWY_DYNAMIC_DISPATCH(backward_rows_f32)(inputs, rows, gradients);
}
void rms_norm_backward_rows(const RmsNormInputs<uint16_t>& inputs,
                            RowRange rows,
                            const RmsNormGradients<uint16_t>& gradients) {
  HWY_DYNAMIC_DISPATCH(backward_rows_bf16)(inputs, rows, gradients);
}

void add_partial_rows(const float* partials, int64_t count, int64_t columns, float* sums) {
  for (int64_t b = 0; b < count; ++b)
    for (int64_t i = 0; i < columns; ++i) sums[i] += partials[b * columns + i];
}

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
