// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "ops/cpu/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/attention_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "base/kernel_dispatch.h"
#include "ops/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

/// Scratch memory of one sequence at one key head. R rows are those of a tile, N tokens those that
/// the sequence sees.
struct BackwardWorkspace {
  /// [Dh, kKeyBlock]
  float *keys, *values;
  /// [kKeyBlock, Dp], if keys need padding.
  float* padded;
  /// [R, Dp]; q is scaled
  float *q, *doutput, *dq;
  /// [R, kKeyBlock]
  float *p, *dscores;
  /// [R]; delta = sum of doutput output
  float *log_sum_exp, *delta;
  /// [N rounded up to kKeyBlock, Dp]
  float *dk, *dv;

  static int64_t padded_rows(int64_t rows) { return (rows + 15) / 16 * 16; }
  static int64_t padded_tokens(int64_t tokens) {
    return (tokens + kKeyBlock - 1) / kKeyBlock * kKeyBlock;
  }
  static int64_t size(int64_t rows, int64_t tokens, int64_t dim) {
    return 3 * kKeyBlock * dim + rows * (3 * dim + 2 * kKeyBlock) + 2 * padded_rows(rows) +
           2 * padded_tokens(tokens) * dim;
  }
  BackwardWorkspace(float* memory, int64_t rows, int64_t tokens, int64_t dim) {
    const auto take = [&memory](int64_t count) {
      memory += count;
      return memory - count;
    };
    keys = take(kKeyBlock * dim);
    values = take(kKeyBlock * dim);
    padded = take(kKeyBlock * dim);
    q = take(rows * dim);
    doutput = take(rows * dim);
    dq = take(rows * dim);
    p = take(rows * kKeyBlock);
    dscores = take(rows * kKeyBlock);
    log_sum_exp = take(padded_rows(rows));
    delta = take(padded_rows(rows));
    dk = take(padded_tokens(tokens) * dim);
    dv = take(padded_tokens(tokens) * dim);
  }
};

/// Positions [begin, end) of a sequence.
struct TokenRange {
  int64_t begin, end;
};

/// sum of a b over a padded row, lane by lane, then over the lanes in pairs.
HWY_INLINE float dot(const float* a, const float* b, int64_t dim) {
  const Vector d;
  auto sum = hn::Zero(d);
  for (int64_t i = 0; i < dim; i += kLanes)
    sum = hn::MulAdd(hn::Load(d, a + i), hn::Load(d, b + i), sum);
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

template <class T>
void start_tile(const SequenceGradients<T>& s,
                TokenRange tokens,
                const BackwardWorkspace& w,
                int64_t dim) {
  const QueryTile<T>& queries = s.queries;
  const int64_t group = queries.group, rows = (tokens.end - tokens.begin) * group;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t token = tokens.begin - queries.first_position + row / group, head = row % group;
    const int64_t offset = token * queries.token_stride + head * queries.head_dim;
    // dq's row serves the output for a moment.
    widen_row(queries.output + offset, queries.head_dim, 1.0f, w.dq + row * dim);
    widen_row(s.doutput + offset, queries.head_dim, 1.0f, w.doutput + row * dim);
    widen_row(queries.q + offset, queries.head_dim, queries.scale, w.q + row * dim);
    w.delta[row] = dot(w.doutput + row * dim, w.dq + row * dim, dim);
    w.log_sum_exp[row] = queries.log_sum_exp[token * queries.heads_stride + head];
  }
  std::fill_n(w.dq, rows * dim, 0.0f);
}

/// From scores in w.p and doutput v^T in w.dscores: p = exp(score - log-sum-exp), dscores = p
/// (doutput v^T - delta).
HWY_INLINE void differentiate_row(const BackwardWorkspace& w, int64_t row, int64_t visible) {
  const Vector d;
  float *p = w.p + row * kKeyBlock, *dscores = w.dscores + row * kKeyBlock;
  const auto limit = hn::Set(d, static_cast<float>(visible));
  for (int64_t j = 0; j < kKeyBlock; j += kLanes) {
    const auto seen = hn::Lt(hn::Iota(d, static_cast<float>(j)), limit);
    const auto x = hn::Sub(hn::Load(d, p + j), hn::Set(d, w.log_sum_exp[row]));
    const auto probability = hn::IfThenElseZero(seen, exp_or_nan(d, x));
    const auto slope = hn::Sub(hn::Load(d, dscores + j), hn::Set(d, w.delta[row]));
    hn::Store(probability, d, p + j);
    hn::Store(hn::IfThenElseZero(seen, hn::Mul(probability, slope)), d, dscores + j);
  }
}

/// Adds what the tile's queries and one block of keys give to each other.
template <class T>
void add_block(const SequenceGradients<T>& s,
               TokenRange tokens,
               int64_t block,
               const BackwardWorkspace& w) {
  const int64_t head_dim = s.queries.head_dim, dim = padded_dim(head_dim);
  const int64_t group = s.queries.group, rows = (tokens.end - tokens.begin) * group;
  const int64_t count = std::min(kKeyBlock, tokens.end - block);
  const int64_t first = std::max<int64_t>(0, block - tokens.begin) * group, seeing = rows - first;
  const BlockRows<T> keys(s.keys, block, count), values(s.values, block, count);
  transpose_block(keys, head_dim, w.keys);
  transpose_block(values, head_dim, w.values);
  const float *q = w.q + first * dim, *doutput = w.doutput + first * dim;
  float *p = w.p + first * kKeyBlock, *dscores = w.dscores + first * kKeyBlock;
  const DenseRows q_rows{q, dim}, doutput_rows{doutput, dim};
  const DenseRows key_columns{w.keys, kKeyBlock}, value_columns{w.values, kKeyBlock};
  using Dense = Product<DenseRows>;
  multiply(Dense{{q, dim, 1}, key_columns, kKeyBlock, seeing, head_dim, false, p});
  multiply(Dense{{doutput, dim, 1}, value_columns, kKeyBlock, seeing, head_dim, false, dscores});
  for (int64_t row = first; row < rows; ++row)
    differentiate_row(w, row, tokens.begin + row / group - block + 1);
  multiply(Dense{{p, 1, kKeyBlock}, doutput_rows, dim, count, seeing, true, w.dv + block * dim});
  multiply(Dense{{dscores, 1, kKeyBlock}, q_rows, dim, count, seeing, true, w.dk + block * dim});
  multiply_block<T>(
      {{dscores, kKeyBlock, 1}, seeing, count, head_dim, w.dq + first * dim, w.padded}, keys);
}

/// One padded float32 row to T, times `scale`.
template <class T>
HWY_INLINE void narrow_row(const float* from, int64_t head_dim, float scale, T* to) {
  const Vector d;
  const hn::CappedTag<float, 1> one;
  int64_t i = 0;
  for (; i + kLanes <= head_dim; i += kLanes)
    store_float(d, hn::Mul(hn::Load(d, from + i), hn::Set(d, scale)), to + i);
  for (; i < head_dim; ++i)
    store_float(one, hn::Mul(hn::LoadU(one, from + i), hn::Set(one, scale)), to + i);
}

template <class T>
void attend_backward(const SequenceGradients<T>& s, float* memory) {
  const QueryTile<T>& queries = s.queries;
  const int64_t dim = padded_dim(queries.head_dim), start = queries.first_position;
  const int64_t num_keys = start + queries.num_tokens;
  const int64_t step = tile_tokens(queries.group), group = queries.group;
  const BackwardWorkspace w(memory, step * group, num_keys, dim);
  std::fill_n(w.dk, 2 * BackwardWorkspace::padded_tokens(num_keys) * dim, 0.0f);
  for (int64_t begin = start; begin < num_keys; begin += step) {
    const TokenRange tokens{begin, std::min(num_keys, begin + step)};
    start_tile(s, tokens, w, dim);
    for (int64_t block = 0; block < tokens.end; block += kKeyBlock) add_block(s, tokens, block, w);
    for (int64_t row = 0; row < (tokens.end - begin) * group; ++row)
      narrow_row(w.dq + row * dim, queries.head_dim, queries.scale,
                 s.dq + (begin - start + row / group) * queries.token_stride +
                     row % group * queries.head_dim);
  }
  for (int64_t key = 0; key < s.common_keys; ++key) {
    narrow_row(w.dk + key * dim, queries.head_dim, 1.0f, s.common_dk + key * s.common_stride);
    narrow_row(w.dv + key * dim, queries.head_dim, 1.0f, s.common_dv + key * s.common_stride);
  }
  for (int64_t key = s.common_keys; key < num_keys; ++key) {
    const int64_t row = (key - s.common_keys) * s.key_stride;
    narrow_row(w.dk + key * dim, queries.head_dim, 1.0f, s.dk + row);
    narrow_row(w.dv + key * dim, queries.head_dim, 1.0f, s.dv + row);
  }
}

int64_t attend_backward_workspace(int64_t tokens, int64_t group, int64_t head_dim) {
  return BackwardWorkspace::size(tile_tokens(group) * group, tokens, padded_dim(head_dim));
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

int64_t attend_backward_workspace(int64_t tokens, int64_t group, int64_t head_dim) {
  return LOCKSTEP_BEST_TARGET(attend_backward_workspace)(tokens, group, head_dim);
}

template <class T>
void attend_backward(const SequenceGradients<T>& sequence, float* workspace) {
  LOCKSTEP_BEST_TARGET(attend_backward<T>)(sequence, workspace);
}
LOCKSTEP_FOR_FLOAT_TYPES(attend_backward);

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
