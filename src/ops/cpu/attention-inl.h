// What the attention kernels share: blocks of keys in float32, and the two products over them. For
// Highway kernels.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: R rows, Dp head dim rounded up to kDimAlign (the padding is zero), kKeyBlock keys.
#include <algorithm>
#include <cstdint>

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

/// The rows of one block of keys or values. Those behind the last token repeat it: what they give
/// is masked.
template <class T>
struct BlockRows {
  const T* row[kKeyBlock];

  BlockRows(const SequenceRows<T>& tokens, int64_t first, int64_t count) {
    if (tokens.pages)
      set_paged(tokens, first, count);
    else
      for (int64_t j = 0; j < count; ++j) {
        const int64_t token = first + j;
        row[j] = token < tokens.shared_tokens
                     ? tokens.shared + token * tokens.token_stride
                     : tokens.data + (token - tokens.shared_tokens) * tokens.token_stride;
      }
    for (int64_t j = count; j < kKeyBlock; ++j) row[j] = row[count - 1];
  }

 private:
  void set_paged(const SequenceRows<T>& tokens, int64_t first, int64_t count) {
    int64_t page = first / tokens.page_size, in_page = first % tokens.page_size;
    for (int64_t j = 0; j < count; ++page, in_page = 0) {
      const T* base = tokens.data + tokens.pages[page] * tokens.page_stride;
      for (; j < count && in_page < tokens.page_size; ++j, ++in_page)
        row[j] = base + in_page * tokens.token_stride;
    }
  }
};

/// The first `count` rows to float32 [count, Dp].
template <class T>
void widen_block(const BlockRows<T>& rows, int64_t count, int64_t head_dim, float* to) {
  const int64_t dim = padded_dim(head_dim);
  for (int64_t j = 0; j < count; ++j) widen_row(rows.row[j], head_dim, 1.0f, to + j * dim);
}

#if HWY_TARGET != HWY_SCALAR
/// 128 bits at `column` of rows 0, 4, 8, ..., in the vector's blocks of 128 bits.
template <class D, class T>
HWY_INLINE hn::Vec<D> load_blocks(D d, const T* const* rows, int64_t column) {
  constexpr size_t kVectorLanes = hn::MaxLanes(D());
  if constexpr (kVectorLanes == 4) {
    const hn::Repartition<T, D> elements;
    return hn::BitCast(d, hn::LoadU(elements, rows[0] + column));
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, load_blocks(half, rows + kVectorLanes / 2, column),
                       load_blocks(half, rows, column));
  }
}

/// Columns [column, column + 16 / sizeof(T)) of kLanes rows, 32 bits of each row in a vector: one
/// column of float, or two neighbours of bfloat16.
struct TransposedTile {
  hn::Vec<hn::Repartition<uint32_t, Vector>> bits[4];

  template <class T>
  HWY_INLINE TransposedTile(const T* const* rows, int64_t column) {
    const hn::Repartition<uint32_t, Vector> d;
    const hn::Repartition<uint64_t, Vector> d64;
    // Row 4 b + i is in block b of vector i, so that 4 x 4 transposes within the blocks finish the
    // job.
    const auto r0 = load_blocks(d, rows, column), r1 = load_blocks(d, rows + 1, column);
    const auto r2 = load_blocks(d, rows + 2, column), r3 = load_blocks(d, rows + 3, column);
    const auto low01 = hn::BitCast(d64, hn::InterleaveLower(d, r0, r1));
    const auto low23 = hn::BitCast(d64, hn::InterleaveLower(d, r2, r3));
    const auto high01 = hn::BitCast(d64, hn::InterleaveUpper(d, r0, r1));
    const auto high23 = hn::BitCast(d64, hn::InterleaveUpper(d, r2, r3));
    bits[0] = hn::BitCast(d, hn::InterleaveLower(d64, low01, low23));
    bits[1] = hn::BitCast(d, hn::InterleaveUpper(d64, low01, low23));
    bits[2] = hn::BitCast(d, hn::InterleaveLower(d64, high01, high23));
    bits[3] = hn::BitCast(d, hn::InterleaveUpper(d64, high01, high23));
  }
  /// Calls use(i, column i as float32) for each column in order.
  template <class Use>
  HWY_INLINE void for_columns(const float*, const Use& use) const {
    for (int64_t i = 0; i < 4; ++i) use(i, hn::BitCast(Vector(), bits[i]));
  }
  template <class Use>
  HWY_INLINE void for_columns(const uint16_t*, const Use& use) const {
    // Two shifts clear the lower half: a mask would take a register from the sums.
    for (int64_t i = 0; i < 4; ++i) {
      use(2 * i, hn::BitCast(Vector(), hn::ShiftLeft<16>(bits[i])));
      use(2 * i + 1, hn::BitCast(Vector(), hn::ShiftLeft<16>(hn::ShiftRight<16>(bits[i]))));
    }
  }
};
#endif  // HWY_SCALAR

/// The block's rows to float32 columns [Dh, kKeyBlock].
template <class T>
void transpose_block(const BlockRows<T>& rows, int64_t head_dim, float* to) {
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  constexpr int64_t kColumns = 16 / sizeof(T);
  for (; i + kColumns <= head_dim; i += kColumns)
    for (int64_t j = 0; j < kKeyBlock; j += kLanes)
      TransposedTile(rows.row + j, i)
          .for_columns(rows.row[0], [&](int64_t column, hn::Vec<Vector> x) HWY_ATTR {
            hn::Store(x, Vector(), to + (i + column) * kKeyBlock + j);
          });
#endif
  const hn::CappedTag<float, 1> one;
  for (; i < head_dim; ++i)
    for (int64_t j = 0; j < kKeyBlock; ++j)
      hn::StoreU(load_float(one, rows.row[j] + i), one, to + i * kKeyBlock + j);
}

/// What the scores of one block are made of: queries [R, Dp], scores [R, kKeyBlock], and the blocks
/// that are needed after this one.
template <class T>
struct ScoreRows {
  const float* q;
  int64_t head_dim;
  const BlockRows<T>&keys, &values, &next_keys;
  float* scores;
};

#if HWY_TARGET != HWY_SCALAR
/// Four rows' cache lines at `column` on the way to the second-level cache. The rows of one head
/// are too far apart for the processor to guess them; all at once would fill its queues.
template <class T>
HWY_INLINE void prefetch_rows(const BlockRows<T>& rows, int64_t first, int64_t column) {
  for (int64_t j = first; j < first + 4; ++j) __builtin_prefetch(rows.row[j] + column, 0, 2);
}

/// Adds to scores what the columns from `first` on give, which are too few for a TransposedTile.
template <int64_t kRows, class T>
HWY_NOINLINE void score_last_columns(const ScoreRows<T>& s, int64_t first) {
  const Vector d;
  const hn::CappedTag<float, 1> one;
  const int64_t dim = padded_dim(s.head_dim);
  for (int64_t j = 0; j < kKeyBlock; j += kLanes)
    for (int64_t i = first; i < s.head_dim; ++i) {
      HWY_ALIGN float column[kLanes];
      for (int64_t k = 0; k < kLanes; ++k)
        hn::StoreU(load_float(one, s.keys.row[j + k] + i), one, column + k);
      for (int64_t r = 0; r < kRows; ++r) {
        float* const sum = s.scores + r * kKeyBlock + j;
        hn::Store(hn::MulAdd(hn::Set(d, s.q[r * dim + i]), hn::Load(d, column), hn::Load(d, sum)),
                  d, sum);
      }
    }
}

/// The scores of a few rows straight from the keys in memory: the same sums as transpose_block()
/// and multiply() give, without the way through memory that only many rows pay back.
template <int64_t kRows, class T>
void score_rows(const ScoreRows<T>& s) {
  const Vector d;
  const int64_t dim = padded_dim(s.head_dim);
  constexpr int64_t kColumns = 16 / sizeof(T), kLine = 4 * kColumns;
  const int64_t tiled = s.head_dim / kColumns * kColumns;
  for (int64_t j = 0; j < kKeyBlock; j += 2 * kLanes) {
    hn::Vec<Vector> sum[kRows][2];
    for (auto& row : sum) row[0] = row[1] = hn::Zero(d);
    const auto add = [&](int64_t half, int64_t column, hn::Vec<Vector> x) HWY_ATTR {
      for (int64_t r = 0; r < kRows; ++r)
        sum[r][half] = hn::MulAdd(hn::Set(d, s.q[r * dim + column]), x, sum[r][half]);
    };
    const auto add_tile = [&](int64_t half, int64_t i) HWY_ATTR {
      TransposedTile(s.keys.row + j + half * kLanes, i)
          .for_columns(s.keys.row[0], [&](int64_t column, hn::Vec<Vector> x)
                                          HWY_ATTR { add(half, i + column, x); });
    };
    // A cache line of kLanes rows at a time: rows that are a power of two apart share a few sets of
    // the first-level cache, which would not hold the lines of more rows until their last column.
    for (int64_t line = 0; line < tiled; line += kLine)
      for (int64_t half = 0; half < 2; ++half)
        for (int64_t i = line; i < std::min(tiled, line + kLine); i += kColumns) {
          const int64_t rows = 16 * half + 4 * (i - line) / kColumns;
          if (j == 0) prefetch_rows(s.values, rows, line);
          if (j == 0) prefetch_rows(s.next_keys, rows, line);
          add_tile(half, i);
        }
    for (int64_t r = 0; r < kRows; ++r)
      for (int64_t half = 0; half < 2; ++half)
        hn::Store(sum[r][half], d, s.scores + r * kKeyBlock + j + half * kLanes);
  }
  if (tiled < s.head_dim) score_last_columns<kRows>(s, tiled);
}
#endif  // HWY_SCALAR

/// Broadcast factors of a product: factor (r, j) is at data[r row_stride + j step].
struct Factors {
  const float* data;
  int64_t row_stride, step;
};

/// The right side of a product: row j of a float32 matrix, or of a block in memory.
struct DenseRows {
  const float* data;
  int64_t stride;
  HWY_INLINE hn::Vec<Vector> load(int64_t j, int64_t column) const {
    return hn::Load(Vector(), data + j * stride + column);
  }
};
template <class T>
struct PointedRows {
  const T* const* row;
  HWY_INLINE hn::Vec<Vector> load(int64_t j, int64_t column) const {
    return load_float(Vector(), row[j] + column);
  }
};

/// out[r] (+)= sum over j < count, ascending, of factor(r, j) x[j].
template <class Rows>
struct Product {
  Factors factors;
  /// [count, columns]
  Rows x;
  /// A multiple of kDimAlign.
  int64_t columns;
  int64_t rows, count;
  bool accumulate;
  /// [rows, columns]
  float* out;
};

/// kRows rows from `row` and kVectors vectors of columns from `column` of a product.
template <int64_t kRows, int64_t kVectors, class Rows>
HWY_INLINE void multiply_tile(const Product<Rows>& p, int64_t row, int64_t column) {
  const Vector d;
  const float* HWY_RESTRICT factors = p.factors.data + row * p.factors.row_stride;
  float* HWY_RESTRICT out = p.out + row * p.columns + column;
  const int64_t row_stride = p.factors.row_stride, step = p.factors.step;
  hn::Vec<Vector> sum[kRows][kVectors];
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t c = 0; c < kVectors; ++c)
      sum[r][c] = p.accumulate ? hn::Load(d, out + r * p.columns + c * kLanes) : hn::Zero(d);
  for (int64_t j = 0; j < p.count; ++j) {
    hn::Vec<Vector> x[kVectors];
    for (int64_t c = 0; c < kVectors; ++c) x[c] = p.x.load(j, column + c * kLanes);
    for (int64_t r = 0; r < kRows; ++r) {
      const auto factor = hn::Set(d, factors[r * row_stride + j * step]);
      for (int64_t c = 0; c < kVectors; ++c) sum[r][c] = hn::MulAdd(factor, x[c], sum[r][c]);
    }
  }
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t c = 0; c < kVectors; ++c)
      hn::Store(sum[r][c], d, out + r * p.columns + c * kLanes);
}

/// As many rows from `row` on as are left of steps of kRows; returns the first row that is not
/// done.
template <int64_t kRows, int64_t kVectors, class Rows>
HWY_INLINE int64_t multiply_rows(const Product<Rows>& p, int64_t row) {
  for (; row + kRows <= p.rows; row += kRows)
    for (int64_t column = 0; column < p.columns; column += kVectors * kLanes)
      multiply_tile<kRows, kVectors>(p, row, column);
  return row;
}

template <class Rows>
void multiply(const Product<Rows>& p) {
  int64_t row = multiply_rows<kRowStep, 2>(p, 0);
  if constexpr (kRowStep > 4) row = multiply_rows<4, 2>(p, row);
  // Few rows need more columns at a time to hide the latency of the sums.
  if (p.columns % (4 * kLanes) == 0) {
    row = multiply_rows<2, 4>(p, row);
    multiply_rows<1, 4>(p, row);
  } else {
    row = multiply_rows<2, 2>(p, row);
    multiply_rows<1, 2>(p, row);
  }
}

/// multiply() with the block's rows on the right side, which must be padded first unless Dh is a
/// multiple of kDimAlign.
template <class T>
struct BlockProduct {
  Factors factors;
  int64_t rows, count, head_dim;
  /// [rows, Dp], accumulated.
  float* out;
  /// [kKeyBlock, Dp]
  float* scratch;
};
template <class T>
HWY_INLINE void multiply_block(const BlockProduct<T>& p, const BlockRows<T>& block) {
  const int64_t dim = padded_dim(p.head_dim);
  if (dim == p.head_dim) {
    multiply(Product<PointedRows<T>>{p.factors, {block.row}, dim, p.rows, p.count, true, p.out});
  } else {
    widen_block(block, p.count, p.head_dim, p.scratch);
    multiply(Product<DenseRows>{p.factors, {p.scratch, dim}, dim, p.rows, p.count, true, p.out});
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#endif
