// One token's step of a state tile, shared by the forward and the backward of the gated delta rule.
// For Highway kernels.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>
#include <cstring>

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "ops/cpu/bfloat16-inl.h"
#include "ops/cpu/gated_delta.h"

#if defined(LOCKSTEP_OPS_CPU_GATED_DELTA_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOCKSTEP_OPS_CPU_GATED_DELTA_INL_H_
#undef LOCKSTEP_OPS_CPU_GATED_DELTA_INL_H_
#else
#define LOCKSTEP_OPS_CPU_GATED_DELTA_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes, so that two vectors divide a tile's row and one divides a padded row of keys.
using DeltaFloat = hn::CappedTag<float, 16>;
using DeltaVector = hn::Vec<DeltaFloat>;

template <class T>
HWY_INLINE void load_values_of(const T* from, int64_t count, int64_t padded, float* to) {
  const DeltaFloat d;
  const hn::CappedTag<float, 1> one;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(load_float(d, from + i), d, to + i);
  for (; i < count; ++i) hn::StoreU(load_float(one, from + i), one, to + i);
  for (; i < padded; ++i) to[i] = 0;
}

/// `count` values from element `offset` on as float32, then zeros up to `padded`.
HWY_INLINE void load_values(
    const DeltaSource& source, int64_t offset, int64_t count, int64_t padded, float* to) {
  if (!source.data)
    std::memset(to, 0, static_cast<size_t>(padded) * sizeof(float));
  else if (source.is_bfloat16)
    load_values_of(static_cast<const uint16_t*>(source.data) + offset, count, padded, to);
  else
    load_values_of(static_cast<const float*>(source.data) + offset, count, padded, to);
}

template <class T>
HWY_INLINE void store_values_of(const float* from, int64_t count, T* to) {
  const DeltaFloat d;
  const hn::CappedTag<float, 1> one;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store_float(d, hn::LoadU(d, from + i), to + i);
  for (; i < count; ++i) store_float(one, hn::LoadU(one, from + i), to + i);
}

/// Rounds `count` values once to the target's dtype.
HWY_INLINE void store_values(const float* from,
                             int64_t count,
                             const DeltaTarget& target,
                             int64_t offset) {
  if (target.is_bfloat16)
    store_values_of(from, count, static_cast<uint16_t*>(target.data) + offset);
  else
    store_values_of(from, count, static_cast<float*>(target.data) + offset);
}

template <class T>
HWY_INLINE void load_pair(const T* from, DeltaVector& first, DeltaVector& second) {
  const DeltaFloat d;
  first = load_float(d, from), second = load_float(d, from + hn::Lanes(d));
}
template <class T>
HWY_INLINE void store_pair(DeltaVector first, DeltaVector second, T* to) {
  const DeltaFloat d;
  store_float(d, first, to), store_float(d, second, to + hn::Lanes(d));
}

/// A tile in memory: rows of 32 floats, `stride` apart.
struct TilePlace {
  float* data;
  int64_t stride;
};

/// S <- decay S + k delta^T; k null: S stays.
struct TileUpdate {
  const float* k = nullptr;
  /// [32]
  const float* delta = nullptr;
  float decay = 1;
};

/// S^T k and S^T q of the updated tile; both [32].
struct TileProbe {
  const float* k = nullptr;
  const float* q = nullptr;
  float* by_k = nullptr;
  float* by_q = nullptr;
  /// Memory to ask for meanwhile, [rows, 32]; only in a pass without update.
  const float* ahead = nullptr;
};

/// One pass over a tile: the update by one token and the products that the next token asks for.
/// Rows are added in two chains, even and odd: the order that fixes the bits of every state and
/// output.
template <bool kUpdate, bool kProbeK, bool kProbeQ>
HWY_INLINE void step_tile(
    TilePlace from, TilePlace to, int64_t rows, const TileUpdate& update, const TileProbe& probe) {
  const DeltaFloat d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto decay = hn::Set(d, update.decay);
  [[maybe_unused]] const float* ahead = probe.ahead ? probe.ahead : from.data;
  for (int64_t c = 0; c < kDeltaTileColumns; c += 2 * lanes) {
    auto delta0 = hn::Zero(d), delta1 = hn::Zero(d);
    if constexpr (kUpdate) {
      delta0 = hn::LoadU(d, update.delta + c);
      delta1 = hn::LoadU(d, update.delta + c + lanes);
    }
    const auto row = [&](int64_t i, auto& k0, auto& k1, auto& q0, auto& q1) HWY_ATTR {
      if constexpr (!kUpdate && kProbeQ)
        hwy::Prefetch(ahead + i * kDeltaTileColumns),
            hwy::Prefetch(ahead + i * kDeltaTileColumns + 16);
      auto s0 = hn::LoadU(d, from.data + i * from.stride + c);
      auto s1 = hn::LoadU(d, from.data + i * from.stride + c + lanes);
      if constexpr (kUpdate) {
        const auto k = hn::Set(d, update.k[i]);
        s0 = hn::MulAdd(k, delta0, hn::Mul(decay, s0));
        s1 = hn::MulAdd(k, delta1, hn::Mul(decay, s1));
        hn::StoreU(s0, d, to.data + i * to.stride + c);
        hn::StoreU(s1, d, to.data + i * to.stride + c + lanes);
      }
      if constexpr (kProbeK) {
        const auto k = hn::Set(d, probe.k[i]);
        k0 = hn::MulAdd(k, s0, k0);
        k1 = hn::MulAdd(k, s1, k1);
      }
      if constexpr (kProbeQ) {
        const auto q = hn::Set(d, probe.q[i]);
        q0 = hn::MulAdd(q, s0, q0);
        q1 = hn::MulAdd(q, s1, q1);
      }
    };
    auto even_k0 = hn::Zero(d), even_k1 = hn::Zero(d), odd_k0 = hn::Zero(d), odd_k1 = hn::Zero(d);
    auto even_q0 = hn::Zero(d), even_q1 = hn::Zero(d), odd_q0 = hn::Zero(d), odd_q1 = hn::Zero(d);
    int64_t i = 0;
    for (; i + 2 <= rows; i += 2) {
      row(i, even_k0, even_k1, even_q0, even_q1);
      row(i + 1, odd_k0, odd_k1, odd_q0, odd_q1);
    }
    if (i < rows) row(i, even_k0, even_k1, even_q0, even_q1);
    if constexpr (kProbeK) {
      hn::StoreU(hn::Add(even_k0, odd_k0), d, probe.by_k + c);
      hn::StoreU(hn::Add(even_k1, odd_k1), d, probe.by_k + c + lanes);
    }
    if constexpr (kProbeQ) {
      hn::StoreU(hn::Add(even_q0, odd_q0), d, probe.by_q + c);
      hn::StoreU(hn::Add(even_q1, odd_q1), d, probe.by_q + c + lanes);
    }
  }
}

/// Copies the `columns` columns of a state [rows, value_dim] into a tile, zeros beside them; null:
/// all zeros.
inline void load_tile(
    const float* state, int64_t value_dim, int64_t columns, int64_t rows, float* tile) {
  if (!state || columns < kDeltaTileColumns)
    std::memset(tile, 0, static_cast<size_t>(rows * kDeltaTileColumns) * sizeof(float));
  if (!state) return;
  for (int64_t i = 0; i < rows; ++i)
    std::memcpy(tile + i * kDeltaTileColumns, state + i * value_dim,
                static_cast<size_t>(columns) * sizeof(float));
}

inline void save_tile(
    const float* tile, int64_t rows, int64_t columns, float* state, int64_t value_dim) {
  for (int64_t i = 0; i < rows; ++i)
    std::memcpy(state + i * value_dim, tile + i * kDeltaTileColumns,
                static_cast<size_t>(columns) * sizeof(float));
}

/// Where a span's tile lies in the arrays of its tokens: the rows of its first token and the steps
/// to the next.
class TileView {
 public:
  TileView(const DeltaTokens& tokens, const DeltaSpan& span, int64_t tile)
      : rows(tokens.key_dim),
        value_dim(tokens.value_dim),
        column(tile * kDeltaTileColumns),
        columns(std::min(kDeltaTileColumns, value_dim - column)),
        padded_rows(tokens.padded_key_dim()),
        heads(tokens.value_heads),
        first_token_(span.first_token),
        head_column_(span.head * value_dim + column),
        first_row_(span.first_token * heads + span.head),
        key_heads_(tokens.key_heads),
        v_(tokens.v) {
    const int64_t key_head = span.head / (tokens.value_heads / tokens.key_heads);
    const int64_t first_key_row = span.first_token * key_heads_ + key_head;
    q_ = tokens.q + first_key_row * padded_rows;
    k_ = tokens.k + first_key_row * padded_rows;
    qk_ = tokens.qk + first_key_row;
    decay_ = tokens.decay + first_row_;
    beta_ = tokens.beta + first_row_;
  }

  /// Row of token t in arrays [T, Hv]; element of its tile in values with the given step from token
  /// to token.
  int64_t value_row(int64_t t) const { return first_row_ + t * heads; }
  int64_t value_offset(int64_t t, int64_t token_stride) const {
    return (first_token_ + t) * token_stride + head_column_;
  }
  const float* q(int64_t t) const { return q_ + t * key_heads_ * padded_rows; }
  const float* k(int64_t t) const { return k_ + t * key_heads_ * padded_rows; }
  float qk(int64_t t) const { return qk_[t * key_heads_]; }
  float decay(int64_t t) const { return decay_[t * heads]; }
  float beta(int64_t t) const { return beta_[t * heads]; }
  /// 2 vectors from column c on of the tile in `source`. Whole tiles are read in place.
  HWY_INLINE void load(const DeltaSource& source,
                       int64_t t,
                       int64_t c,
                       DeltaVector& first,
                       DeltaVector& second) const {
    const int64_t offset = value_offset(t, source.token_stride);
    if (columns == kDeltaTileColumns && source.data) {
      if (source.is_bfloat16)
        load_pair(static_cast<const uint16_t*>(source.data) + offset + c, first, second);
      else
        load_pair(static_cast<const float*>(source.data) + offset + c, first, second);
      return;
    }
    HWY_ALIGN float padded[kDeltaTileColumns];
    load_values(source, offset, columns, kDeltaTileColumns, padded);
    load_pair(padded + c, first, second);
  }
  HWY_INLINE void load_v(int64_t t, int64_t c, DeltaVector& first, DeltaVector& second) const {
    load(v_, t, c, first, second);
  }
  /// The other way round.
  HWY_INLINE void store(DeltaVector first,
                        DeltaVector second,
                        const DeltaTarget& target,
                        int64_t t,
                        int64_t c) const {
    const int64_t offset = value_offset(t, target.token_stride);
    if (columns == kDeltaTileColumns) {
      if (target.is_bfloat16)
        store_pair(first, second, static_cast<uint16_t*>(target.data) + offset + c);
      else
        store_pair(first, second, static_cast<float*>(target.data) + offset + c);
      return;
    }
    HWY_ALIGN float padded[kDeltaTileColumns];
    store_pair(first, second, padded);
    const int64_t count = std::min(2 * static_cast<int64_t>(hn::Lanes(DeltaFloat())), columns - c);
    if (count > 0) store_values(padded, count, target, offset + c);
  }
  /// Asks for what a token reads ahead of time: from one token to the next it is too far for the
  /// processor to guess. Past the ends it does no harm.
  HWY_INLINE void prefetch(int64_t t) const {
    prefetch_keys(q(t));
    prefetch_keys(k(t));
    prefetch_values(v_, t);
  }
  HWY_INLINE void prefetch_keys(const float* row) const {
    for (int64_t i = 0; i < padded_rows; i += kDeltaKeyPadding) hwy::Prefetch(row + i);
  }
  HWY_INLINE void prefetch_values(const DeltaSource& source, int64_t t) const {
    if (!source.data) return;
    const int64_t bytes = source.is_bfloat16 ? 2 : 4;
    const char* from =
        static_cast<const char*>(source.data) + value_offset(t, source.token_stride) * bytes;
    hwy::Prefetch(from), hwy::Prefetch(from + kDeltaTileColumns * bytes - 1);
  }

  /// Dk, Dv.
  int64_t rows, value_dim;
  int64_t column, columns, padded_rows, heads;

 private:
  int64_t first_token_, head_column_, first_row_, key_heads_;
  DeltaSource v_;
  const float *q_, *k_, *qk_, *decay_, *beta_;
};

/// error = v - decay S^T k, delta = beta error, from by_k = S^T k of the state before the token: 2
/// vectors from column c on.
HWY_INLINE void delta_of(
    const TileView& view, int64_t t, int64_t c, const float* by_k, float* error, float* delta) {
  const DeltaFloat d;
  DeltaVector v0, v1, k0, k1;
  view.load_v(t, c, v0, v1);
  load_pair(by_k + c, k0, k1);
  const auto decay = hn::Set(d, view.decay(t)), beta = hn::Set(d, view.beta(t));
  const auto error0 = hn::NegMulAdd(decay, k0, v0), error1 = hn::NegMulAdd(decay, k1, v1);
  store_pair(error0, error1, error + c);
  store_pair(hn::Mul(beta, error0), hn::Mul(beta, error1), delta + c);
}

}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#endif
