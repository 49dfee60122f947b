// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/attention.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "base/kernel_dispatch.h"
#include "ops/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

HWY_INLINE float exp_one(float x) {
  const hn::CappedTag<float, 1> one;
  return hn::GetLane(exp_or_nan(one, hn::Set(one, x)));
}

/// A tile's scratch memory, and the state of its online softmax.
struct ForwardWorkspace {
  /// [Dh, kKeyBlock]; [kKeyBlock, Dp], if values need padding.
  float *keys, *values;
  /// [R, Dp]: scaled queries; sums of p v.
  float *q, *sum;
  /// [R, kKeyBlock]: scores, then p; sums of p, one for each key of a block.
  float *scores, *weight;
  /// [R], the largest score so far.
  float* max;

  static int64_t size(int64_t rows, int64_t dim) {
    return 2 * kKeyBlock * dim + rows * (2 * dim + 2 * kKeyBlock) + (rows + 15) / 16 * 16;
  }
  ForwardWorkspace(float* memory, int64_t rows, int64_t dim) {
    const auto take = [&memory](int64_t count) {
      memory += count;
      return memory - count;
    };
    keys = take(kKeyBlock * dim);
    values = take(kKeyBlock * dim);
    q = take(rows * dim);
    sum = take(rows * dim);
    scores = take(rows * kKeyBlock);
    weight = take(rows * kKeyBlock);
    max = take(rows);
  }
};

/// Turns a row's scores of one block, of which it sees the first `visible`, into p = exp(s - max)
/// with the new running max, and rescales the row's sums to it.
HWY_INLINE void softmax_row(const ForwardWorkspace& w, int64_t row, int64_t visible, int64_t dim) {
  const Vector d;
  float* scores = w.scores + row * kKeyBlock;
  const auto limit = hn::Set(d, static_cast<float>(visible));
  auto block_max = hn::Set(d, -kInfinity);
  for (int64_t j = 0; j < kKeyBlock; j += kLanes) {
    const auto seen = hn::Lt(hn::Iota(d, static_cast<float>(j)), limit);
    const auto s = hn::IfThenElse(seen, hn::Load(d, scores + j), hn::Set(d, -kInfinity));
    hn::Store(s, d, scores + j);
    block_max = hn::Max(block_max, s);
  }
  const float old_max = w.max[row];
  const float max = std::max(old_max, hn::GetLane(hn::MaxOfLanes(d, block_max)));
  w.max[row] = max;
  float* weight = w.weight + row * kKeyBlock;
  if (max != old_max) {
    const auto factor = hn::Set(d, exp_one(old_max - max));
    float* sum = w.sum + row * dim;
    for (int64_t j = 0; j < kKeyBlock; j += kLanes)
      hn::Store(hn::Mul(hn::Load(d, weight + j), factor), d, weight + j);
    for (int64_t i = 0; i < dim; i += kLanes)
      hn::Store(hn::Mul(hn::Load(d, sum + i), factor), d, sum + i);
  }
  for (int64_t j = 0; j < kKeyBlock; j += kLanes) {
    const auto p = exp_or_nan(d, hn::Sub(hn::Load(d, scores + j), hn::Set(d, max)));
    hn::Store(p, d, scores + j);
    hn::Store(hn::Add(hn::Load(d, weight + j), p), d, weight + j);
  }
}

/// Divides a row's sum by its total weight and writes it out.
template <class T>
HWY_INLINE void finish_row(const QueryTile<T>& tile,
                           const ForwardWorkspace& w,
                           int64_t row,
                           int64_t dim) {
  float* weight = w.weight + row * kKeyBlock;
  for (int64_t half = kKeyBlock / 2; half > 0; half /= 2)
    for (int64_t j = 0; j < half; ++j) weight[j] += weight[j + half];
  const Vector d;
  const hn::CappedTag<float, 1> one;
  const float inverse = 1.0f / weight[0];
  const int64_t token = row / tile.group, head = row % tile.group;
  const float* sum = w.sum + row * dim;
  T* out = tile.output + token * tile.token_stride + head * tile.head_dim;
  int64_t i = 0;
  for (; i + kLanes <= tile.head_dim; i += kLanes)
    store_float(d, hn::Mul(hn::Load(d, sum + i), hn::Set(d, inverse)), out + i);
  for (; i < tile.head_dim; ++i)
    store_float(one, hn::Mul(hn::LoadU(one, sum + i), hn::Set(one, inverse)), out + i);
  if (tile.log_sum_exp != nullptr)
    tile.log_sum_exp[token * tile.heads_stride + head] = w.max[row] + std::log(weight[0]);
}

template <class T>
void start_rows(const QueryTile<T>& tile, const ForwardWorkspace& w, int64_t dim) {
  const int64_t rows = tile.rows();
  for (int64_t row = 0; row < rows; ++row)
    widen_row(tile.q + row / tile.group * tile.token_stride + row % tile.group * tile.head_dim,
              tile.head_dim, tile.scale, w.q + row * dim);
  std::fill_n(w.sum, rows * dim, 0.0f);
  std::fill_n(w.weight, rows * kKeyBlock, 0.0f);
  std::fill_n(w.max, rows, -kInfinity);
}

/// Scores of `rows` rows against one block, into w.scores; the block after it is on its way then.
template <class T>
void score_block(const ScoreRows<T>& s, int64_t rows, const ForwardWorkspace& w) {
#if HWY_TARGET != HWY_SCALAR
  if (rows == 1) return score_rows<1>(s);
  if (rows == 2) return score_rows<2>(s);
  if (rows == 3) return score_rows<3>(s);
  if (rows == 4) return score_rows<4>(s);
#endif
  const int64_t dim = padded_dim(s.head_dim);
  transpose_block(s.keys, s.head_dim, w.keys);
  multiply(Product<DenseRows>{
      {s.q, dim, 1}, {w.keys, kKeyBlock}, kKeyBlock, rows, s.head_dim, false, s.scores});
}

template <class T>
void attend(const QueryTile<T>& tile,
            const SequenceRows<T>& keys,
            const SequenceRows<T>& values,
            const NextKeys<T>& after,
            float* workspace) {
  const int64_t rows = tile.rows(), dim = padded_dim(tile.head_dim);
  const int64_t num_keys = tile.first_position + tile.num_tokens;
  const ForwardWorkspace w(workspace, rows, dim);
  start_rows(tile, w, dim);
  BlockRows<T> block_keys(keys, 0, std::min(kKeyBlock, num_keys));
  for (int64_t block = 0; block < num_keys; block += kKeyBlock) {
    const int64_t count = std::min(kKeyBlock, num_keys - block);
    // Rows of earlier tokens see nothing of this block and must not be touched by it.
    const int64_t first = std::max<int64_t>(0, block - tile.first_position) * tile.group;
    const int64_t next = block + kKeyBlock;
    const BlockRows<T> block_values(values, block, count);
    const BlockRows<T> next_keys =
        next < num_keys ? BlockRows<T>(keys, next, std::min(kKeyBlock, num_keys - next))
        : after.count   ? BlockRows<T>(after.rows, 0, std::min(kKeyBlock, after.count))
                        : block_keys;
    float* scores = w.scores + first * kKeyBlock;
    score_block<T>({w.q + first * dim, tile.head_dim, block_keys, block_values, next_keys, scores},
                   rows - first, w);
    for (int64_t row = first; row < rows; ++row)
      softmax_row(w, row, tile.first_position + row / tile.group - block + 1, dim);
    multiply_block<T>(
        {{scores, kKeyBlock, 1}, rows - first, count, tile.head_dim, w.sum + first * dim, w.values},
        block_values);
    block_keys = next_keys;
  }
  for (int64_t row = 0; row < rows; ++row) finish_row(tile, w, row, dim);
}

int64_t attend_workspace(int64_t rows, int64_t head_dim) {
  return ForwardWorkspace::size(rows, padded_dim(head_dim));
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

int64_t attend_workspace(int64_t rows, int64_t head_dim) {
  return LOCKSTEP_BEST_TARGET(attend_workspace)(rows, head_dim);
}

template <class T>
void attend(const QueryTile<T>& tile,
            const SequenceRows<T>& keys,
            const SequenceRows<T>& values,
            const NextKeys<T>& next,
            float* workspace) {
  LOCKSTEP_BEST_TARGET(attend<T>)(tile, keys, values, next, workspace);
}
LOCKSTEP_FOR_FLOAT_TYPES(attend);

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
