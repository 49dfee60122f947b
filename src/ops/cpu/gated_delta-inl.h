// One token's step of a state tile, shared by the forward and the backward of the gated delta rule. For Highway kernels.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>
#include <cstring>

#include <hwy/highway.h>

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

/// A tile in memory: rows of 32 floats, `stride` apart.
struct TilePlace {
  float* data;
  int64_t stride;
};

/// S <- decay S + k delta^T; k null: S stays.
struct TileUpdate {
  const float* k = nullptr;
  const float* delta = nullptr;  ///< [32]
  float decay = 1;
};

/// S^T k and S^T q of the updated tile; both [32].
struct TileProbe {
  const float* k = nullptr;
  const float* q = nullptr;
  float* by_k = nullptr;
  float* by_q = nullptr;
};

/// One pass over a tile: the update by one token and the products that the next token asks for. Rows are added in two
/// chains, even and odd: the order that fixes the bits of every state and output.
template <bool kUpdate, bool kProbeK, bool kProbeQ>
HWY_INLINE void step_tile(
    TilePlace from, TilePlace to, int64_t rows, const TileUpdate& update, const TileProbe& probe) {
  const DeltaFloat d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto decay = hn::Set(d, update.decay);
  for (int64_t c = 0; c < kDeltaTileColumns; c += 2 * lanes) {
    auto delta0 = hn::Zero(d), delta1 = hn::Zero(d);
    if constexpr (kUpdate) {
      delta0 = hn::LoadU(d, update.delta + c);
      delta1 = hn::LoadU(d, update.delta + c + lanes);
    }
    const auto row = [&](int64_t i, auto& k0, auto& k1, auto& q0, auto& q1) HWY_ATTR {
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

/// error = v - decay S^T k, delta = beta error, from by_k = S^T k of the state before the token. All [32].
HWY_INLINE void delta_of(
    const float* v, const float* by_k, float decay, float beta, float* error, float* delta) {
  const DeltaFloat d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t c = 0; c < kDeltaTileColumns; c += lanes) {
    const auto e = hn::NegMulAdd(hn::Set(d, decay), hn::LoadU(d, by_k + c), hn::LoadU(d, v + c));
    hn::StoreU(e, d, error + c);
    hn::StoreU(hn::Mul(hn::Set(d, beta), e), d, delta + c);
  }
}

/// Copies the `columns` columns of a state [rows, value_dim] into a tile, zeros beside them; null: all zeros.
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

/// Where a span's tile lies in the arrays of `tokens`.
struct TileView {
  const DeltaTokens& tokens;
  int64_t first_token, head, column;

  int64_t key_row(int64_t t) const {
    const int64_t key_head = head / (tokens.value_heads / tokens.key_heads);
    return (first_token + t) * tokens.key_heads + key_head;
  }
  int64_t value_row(int64_t t) const { return (first_token + t) * tokens.value_heads + head; }
  int64_t value_offset(int64_t t) const {
    return value_row(t) * tokens.padded_value_dim() + column;
  }
  int64_t columns() const { return std::min(kDeltaTileColumns, tokens.value_dim - column); }
  const float* q(int64_t t) const { return tokens.q + key_row(t) * tokens.padded_key_dim(); }
  const float* k(int64_t t) const { return tokens.k + key_row(t) * tokens.padded_key_dim(); }
  const float* v(int64_t t) const { return tokens.v + value_offset(t); }
  float decay(int64_t t) const { return tokens.decay[value_row(t)]; }
  float beta(int64_t t) const { return tokens.beta[value_row(t)]; }
};

}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#endif
