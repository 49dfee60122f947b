// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/gated_rms_norm.h"

#include <cmath>
#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/gated_rms_norm.cpp"
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

/// Adds a b to a row's sum: of whole vectors in one, of the single elements in the other.
template <class D>
HWY_INLINE void add_product(
    D, hn::Vec<D> a, hn::Vec<D> b, hn::Vec<Float>& vectors, hn::Vec<One>& rest) {
  if constexpr (std::is_same_v<D, Float>)
    vectors = hn::MulAdd(a, b, vectors);
  else
    rest = hn::MulAdd(a, b, rest);
}

HWY_INLINE float total(hn::Vec<Float> vectors, hn::Vec<One> rest) {
  return hn::GetLane(hn::SumOfLanes(Float(), vectors)) + hn::GetLane(rest);
}

template <class T>
HWY_INLINE float reciprocal_rms(const T* x, int64_t dim, float eps) {
  auto vectors = hn::Zero(Float());
  auto rest = hn::Zero(One());
  for_each_vector(dim, [&](auto d, int64_t i) HWY_ATTR {
    const auto v = load_float(d, x + i);
    add_product(d, v, v, vectors, rest);
  });
  return 1.0F / std::sqrt(total(vectors, rest) / static_cast<float>(dim) + eps);
}

template <class T>
void gated_rms_norm(const GatedRmsNormRows<T>& rows, T* out) {
  for (int64_t row = 0; row < rows.num_rows; ++row) {
    const T *x = rows.x + row * rows.dim, *z = rows.z + row * rows.dim;
    T* to = out + row * rows.dim;
    const float r = reciprocal_rms(x, rows.dim, rows.eps);
    for_each_vector(rows.dim, [&](auto d, int64_t i) HWY_ATTR {
      const auto n = hn::Mul(load_float(d, x + i), hn::Set(d, r));
      const auto gate = load_float(d, z + i);
      const auto silu = hn::Mul(gate, sigmoid(d, gate));
      store_float(d, hn::Mul(hn::Mul(n, hn::LoadU(d, rows.weight + i)), silu), to + i);
    });
  }
}

/// dn = dy w silu(z); dw += dy n silu(z); dz = dy n w silu'(z); dx = r (dn - n mean(dn n)).
template <class T>
void gated_rms_norm_backward(const GatedRmsNormRows<T>& rows,
                             const GatedRmsNormGradients<T>& gradients,
                             float* dn) {
  for (int64_t row = 0; row < rows.num_rows; ++row) {
    const int64_t at = row * rows.dim;
    const T *x = rows.x + at, *z = rows.z + at, *dy = gradients.out + at;
    T *dx = gradients.x + at, *dz = gradients.z + at;
    const float r = reciprocal_rms(x, rows.dim, rows.eps);
    auto vectors = hn::Zero(Float());
    auto rest = hn::Zero(One());
    for_each_vector(rows.dim, [&](auto d, int64_t i) HWY_ATTR {
      const auto n = hn::Mul(load_float(d, x + i), hn::Set(d, r));
      const auto gate = load_float(d, z + i), weight = hn::LoadU(d, rows.weight + i);
      const auto s = sigmoid(d, gate), dy_n = hn::Mul(load_float(d, dy + i), n);
      const auto silu = hn::Mul(gate, s);
      const auto gradient = hn::Mul(hn::Mul(load_float(d, dy + i), weight), silu);
      store_float(d, hn::Mul(hn::Mul(dy_n, weight), silu_slope(d, gate, s)), dz + i);
      hn::StoreU(hn::MulAdd(dy_n, silu, hn::LoadU(d, gradients.weight + i)), d,
                 gradients.weight + i);
      hn::StoreU(gradient, d, dn + i);
      add_product(d, gradient, n, vectors, rest);
    });
    const float mean = total(vectors, rest) / static_cast<float>(rows.dim);
    for_each_vector(rows.dim, [&](auto d, int64_t i) HWY_ATTR {
      const auto n = hn::Mul(load_float(d, x + i), hn::Set(d, r));
      const auto across = hn::NegMulAdd(n, hn::Set(d, mean), hn::LoadU(d, dn + i));
      store_float(d, hn::Mul(across, hn::Set(d, r)), dx + i);
    });
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

template <class T>
void gated_rms_norm(const GatedRmsNormRows<T>& rows, T* out) {
  LOCKSTEP_BEST_TARGET(gated_rms_norm<T>)(rows, out);
}
LOCKSTEP_FOR_FLOAT_TYPES(gated_rms_norm);

template <class T>
void gated_rms_norm_backward(const GatedRmsNormRows<T>& rows,
                             const GatedRmsNormGradients<T>& gradients,
                             float* scratch) {
  LOCKSTEP_BEST_TARGET(gated_rms_norm_backward<T>)(rows, gradients, scratch);
}
LOCKSTEP_FOR_FLOAT_TYPES(gated_rms_norm_backward);

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
