// What the attention kernels share: blocks of keys in float32, and the two products over them. For Highway kernels.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: R rows, Dp head dim rounded up to kDimAlign (the padding is zero), kKeyBlock keys.
#include <cstdint>
#include <cstring>

#include <hwy/highway.h>

#if defined(LOCKSTEP_OPS_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOCKSTEP_OPS_CPU_ATTENTION_INL_H_
#undef LOCKSTEP_OPS_CPU_ATTENTION_INL_H_
#else
#define LOCKSTEP_OPS_CPU_ATTENTION_INL_H_
#endif

#include "hwy/contrib/math/math-inl.h"
#include "ops/cpu/attention.h"
#include "ops/cpu/bfloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Vector = hn::CappedTag<float, 16>;
constexpr int64_t kLanes = hn::MaxLanes(Vector());
constexpr int64_t kDimAlign = 32;
// Rows whose sums are in registers at once, two vectors each.
constexpr int64_t kRowStep = kLanes == 16 ? 8 : 4;
static_assert(kKeyBlock % (2 * kLanes) == 0 && kDimAlign % (2 * kLanes) == 0);

HWY_INLINE int64_t padded_dim(int64_t head_dim) {
  return (head_dim + kDimAlign - 1) / kDimAlign * kDimAlign;
}

/// exp, but NaN stays NaN: Highway's makes it 0, and a broken row must not look sound.
template <class D>
HWY_INLINE hn::Vec<D> exp_or_nan(D d, hn::Vec<D> x) {
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(d, x));
}

/// One row of T to float32, times `scale`, zero from head_dim on.
template <class T>
HWY_INLINE void widen_row(const T* from, int64_t head_dim, float scale, float* to) {
  const Vector d;
  const hn::CappedTag<float, 1> one;
  int64_t i = 0;
  for (; i + kLanes <= head_dim; i += kLanes)
    hn::StoreU(hn::Mul(load_float(d, from + i), hn::Set(d, scale)), d, to + i);
  for (; i < head_dim; ++i)
    hn::StoreU(hn::Mul(load_float(one, from + i), hn::Set(one, scale)), one, to + i);
  for (const int64_t end = padded_dim(head_dim); i < end; ++i) to[i] = 0;
}

/// Tokens [first, first + count) to float32 rows [kKeyBlock, Dp], zero from `count` on.
template <class T>
void widen_block(
    const TokenRows<T>& rows, int64_t first, int64_t count, int64_t head_dim, float* to) {
  const int64_t dim = padded_dim(head_dim);
  for (int64_t j = 0; j < count; ++j) widen_row(rows.row(first + j), head_dim, 1.0f, to + j * dim);
  std::memset(to + count * dim, 0, static_cast<size_t>((kKeyBlock - count) * dim) * sizeof(float));
}

#if HWY_TARGET != HWY_SCALAR
/// The four floats at `from`, at from + 4 stride, ... in the vector's blocks of 128 bits.
template <class D>
HWY_INLINE hn::Vec<D> load_blocks(D d, const float* from, int64_t stride) {
  constexpr int64_t kBlockLanes = hn::MaxLanes(D());
  if constexpr (kBlockLanes == 4) {
    return hn::Load(d, from);
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, load_blocks(half, from + kBlockLanes / 2 * stride, stride),
                       load_blocks(half, from, stride));
  }
}
#endif

/// [kKeyBlock, Dp] to [Dp, kKeyBlock].
HWY_INLINE void transpose_block(const float* from, int64_t dim, float* to) {
#if HWY_TARGET == HWY_SCALAR
  for (int64_t j = 0; j < kKeyBlock; ++j)
    for (int64_t i = 0; i < dim; ++i) to[i * kKeyBlock + j] = from[j * dim + i];
#else
  const Vector d;
  const hn::Repartition<uint64_t, Vector> d64;
  const auto wide = [&](auto v) HWY_ATTR { return hn::BitCast(d64, v); };
  for (int64_t j = 0; j < kKeyBlock; j += kLanes)
    for (int64_t i = 0; i < dim; i += 4) {
      // Four columns of kLanes rows: row j + 4 b + r is in block b of vector r, so that 4 x 4 transposes within the
      // blocks finish the job.
      const float* at = from + j * dim + i;
      const auto r0 = load_blocks(d, at, dim), r1 = load_blocks(d, at + dim, dim);
      const auto r2 = load_blocks(d, at + 2 * dim, dim), r3 = load_blocks(d, at + 3 * dim, dim);
      const auto low01 = wide(hn::InterleaveLower(d, r0, r1));
      const auto low23 = wide(hn::InterleaveLower(d, r2, r3));
      const auto high01 = wide(hn::InterleaveUpper(d, r0, r1));
      const auto high23 = wide(hn::InterleaveUpper(d, r2, r3));
      float* out = to + i * kKeyBlock + j;
      hn::Store(hn::BitCast(d, hn::InterleaveLower(d64, low01, low23)), d, out);
      hn::Store(hn::BitCast(d, hn::InterleaveUpper(d64, low01, low23)), d, out + kKeyBlock);
      hn::Store(hn::BitCast(d, hn::InterleaveLower(d64, high01, high23)), d, out + 2 * kKeyBlock);
      hn::Store(hn::BitCast(d, hn::InterleaveUpper(d64, high01, high23)), d, out + 3 * kKeyBlock);
    }
#endif
}

/// Broadcast factors of a product: factor (r, j) is at data[r row_stride + j step].
struct Factors {
  const float* data;
  int64_t row_stride, step;
};

/// out[r] (+)= sum over j < count, ascending, of factor(r, j) x[j].
struct Product {
  Factors factors;
  const float* x;   ///< [count, columns]
  int64_t columns;  ///< A multiple of kDimAlign.
  int64_t rows, count;
  bool accumulate;
  float* out;  ///< [rows, columns]
};

/// Rows r .. r + kRows and columns c .. c + 2 kLanes of a product.
template <int64_t kRows>
HWY_INLINE void multiply_tile(const Product& p, int64_t row, int64_t column) {
  const Vector d;
  const float* HWY_RESTRICT factors = p.factors.data + row * p.factors.row_stride;
  const float* HWY_RESTRICT x = p.x + column;
  float* HWY_RESTRICT out = p.out + row * p.columns + column;
  hn::Vec<Vector> sum[kRows][2];
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t c = 0; c < 2; ++c)
      sum[r][c] = p.accumulate ? hn::Load(d, out + r * p.columns + c * kLanes) : hn::Zero(d);
  for (int64_t j = 0; j < p.count; ++j) {
    const auto x0 = hn::Load(d, x + j * p.columns), x1 = hn::Load(d, x + j * p.columns + kLanes);
    for (int64_t r = 0; r < kRows; ++r) {
      const auto factor = hn::Set(d, factors[r * p.factors.row_stride + j * p.factors.step]);
      sum[r][0] = hn::MulAdd(factor, x0, sum[r][0]);
      sum[r][1] = hn::MulAdd(factor, x1, sum[r][1]);
    }
  }
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t c = 0; c < 2; ++c) hn::Store(sum[r][c], d, out + r * p.columns + c * kLanes);
}

template <int64_t kRows>
HWY_INLINE int64_t multiply_rows(const Product& p, int64_t row) {
  for (; row + kRows <= p.rows; row += kRows)
    for (int64_t column = 0; column < p.columns; column += 2 * kLanes)
      multiply_tile<kRows>(p, row, column);
  return row;
}

HWY_INLINE void multiply(const Product& p) {
  int64_t r = multiply_rows<kRowStep>(p, 0);
  if constexpr (kRowStep > 4) r = multiply_rows<4>(p, r);
  r = multiply_rows<2>(p, r);
  multiply_rows<1>(p, r);
}

}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#endif
