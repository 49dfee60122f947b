// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/gated_delta.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/gated_delta.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/gated_delta-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// What lies between two passes over a tile: the products that the last one found, and the token's
/// delta.
struct Between {
  HWY_ALIGN float by_k[kDeltaTileColumns];
  HWY_ALIGN float by_q[kDeltaTileColumns];
  HWY_ALIGN float error[kDeltaTileColumns];
  HWY_ALIGN float delta[kDeltaTileColumns];
};

/// The update of the tile by token t. Writes the token's output o = decay S^T q + <q, k> delta,
/// which is S'^T q of the updated state without another pass over it.
HWY_INLINE TileUpdate answer(const TileView& view,
                             int64_t t,
                             Between& between,
                             const DeltaTarget& output) {
  const DeltaFloat d;
  const auto decay = hn::Set(d, view.decay(t)), qk = hn::Set(d, view.qk(t));
  for (int64_t c = 0; c < kDeltaTileColumns; c += 2 * static_cast<int64_t>(hn::Lanes(d))) {
    delta_of(view, t, c, between.by_k, between.error, between.delta);
    DeltaVector q0, q1, delta0, delta1;
    load_pair(between.by_q + c, q0, q1);
    load_pair(between.delta + c, delta0, delta1);
    view.store(hn::MulAdd(qk, delta0, hn::Mul(decay, q0)),
               hn::MulAdd(qk, delta1, hn::Mul(decay, q1)), output, t, c);
  }
  return {view.k(t), between.delta, view.decay(t)};
}

/// One tile over all tokens. Each pass over the tile updates it by token t and multiplies it by the
/// keys and queries of token t + 1; the first reads the caller's state and the last writes it,
/// where it has whole tiles.
void forward_tile(const TileView& view,
                  int64_t length,
                  const DeltaStates& states,
                  const DeltaTarget& output,
                  float* scratch) {
  const bool whole = view.columns == kDeltaTileColumns;
  const TilePlace local{scratch, kDeltaTileColumns};
  TilePlace from = local;
  if (whole && states.initial)
    from = {const_cast<float*>(states.initial) + view.column, view.value_dim};  // only read
  else
    load_tile(states.initial ? states.initial + view.column : nullptr, view.value_dim, view.columns,
              view.rows, local.data);
  Between between;
  // One token reads a state once, from main memory: meanwhile the next head's, which lies behind
  // it, is asked for.
  const float* ahead = nullptr;
  if (whole && states.initial && length == 1)
    ahead = states.initial + view.rows * view.value_dim + view.rows * view.column;
  step_tile<false, true, true>(from, from, view.rows, {},
                               {view.k(0), view.q(0), between.by_k, between.by_q, ahead});
  for (int64_t t = 0; t < length - 1; ++t) {
    view.prefetch(t + 2);
    const TileUpdate update = answer(view, t, between, output);
    step_tile<true, true, true>(from, local, view.rows, update,
                                {view.k(t + 1), view.q(t + 1), between.by_k, between.by_q});
    from = local;
    if (states.checkpoints && (t + 1) % kGatedDeltaCheckpoint == 0) {
      const int64_t index = (t + 1) / kGatedDeltaCheckpoint - 1;
      save_tile(local.data, view.rows, view.columns,
                states.checkpoints + index * states.checkpoint_stride + view.column,
                view.value_dim);
    }
  }
  const TileUpdate update = answer(view, length - 1, between, output);
  const TilePlace to = whole ? TilePlace{states.final + view.column, view.value_dim} : local;
  step_tile<true, false, false>(from, to, view.rows, update, {});
  if (!whole)
    save_tile(local.data, view.rows, view.columns, states.final + view.column, view.value_dim);
}

void forward_span(const DeltaTokens& tokens,
                  const DeltaSpan& span,
                  const DeltaStates& states,
                  const DeltaTarget& output,
                  float* scratch) {
  for (int64_t tile = span.first_tile; tile < span.end_tile; ++tile)
    forward_tile(TileView(tokens, span, tile), span.length, states, output, scratch);
}

HWY_INLINE float dot(const float* a, const float* b, int64_t padded) {
  const DeltaFloat d;
  auto sum = hn::Zero(d);
  for (int64_t i = 0; i < padded; i += static_cast<int64_t>(hn::Lanes(d)))
    sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

HWY_INLINE float reciprocal_norm(const float* x, int64_t padded) {
  return 1.0F / std::sqrt(dot(x, x, padded) + kDeltaNormEps);
}

/// Reads a row and makes it x / |x| scale.
HWY_INLINE void normalize_row(
    const DeltaSource& source, int64_t offset, const DeltaKeys& keys, float scale, float* to) {
  const DeltaFloat d;
  load_values(source, offset, keys.dim, keys.padded_dim, to);
  const auto factor = hn::Set(d, reciprocal_norm(to, keys.padded_dim) * scale);
  for (int64_t i = 0; i < keys.padded_dim; i += static_cast<int64_t>(hn::Lanes(d)))
    hn::StoreU(hn::Mul(hn::LoadU(d, to + i), factor), d, to + i);
}

void normalize(const DeltaKeys& keys, float* q_normal, float* k_normal, float* qk) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(keys.dim));
  for (int64_t t = keys.first_token; t < keys.end_token; ++t)
    for (int64_t h = 0; h < keys.heads; ++h) {
      const int64_t row = t * keys.heads + h, at = row * keys.padded_dim;
      normalize_row(keys.q, t * keys.q.token_stride + h * keys.dim, keys, scale, q_normal + at);
      normalize_row(keys.k, t * keys.k.token_stride + h * keys.dim, keys, 1.0F, k_normal + at);
      qk[row] = dot(q_normal + at, k_normal + at, keys.padded_dim);
    }
}

/// dx = r (dy - y <dy, y>), y = x r, dy = scale (sum of the group's rows). `gradient` holds dy,
/// then dx.
HWY_INLINE void norm_gradient(const float* x,
                              const float* group_rows,
                              int64_t group,
                              float scale,
                              int64_t padded,
                              float* gradient) {
  const DeltaFloat d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < padded; i += lanes) {
    auto sum = hn::LoadU(d, group_rows + i);
    for (int64_t j = 1; j < group; ++j)
      sum = hn::Add(sum, hn::LoadU(d, group_rows + j * padded + i));
    hn::StoreU(hn::Mul(sum, hn::Set(d, scale)), d, gradient + i);
  }
  const float r = reciprocal_norm(x, padded);
  const auto along = hn::Set(d, dot(gradient, x, padded) * r * r);  // y <dy, y> = x r^2 <dy, x>
  for (int64_t i = 0; i < padded; i += lanes) {
    const auto across = hn::NegMulAdd(along, hn::LoadU(d, x + i), hn::LoadU(d, gradient + i));
    hn::StoreU(hn::Mul(across, hn::Set(d, r)), d, gradient + i);
  }
}

void normalize_backward(const DeltaKeys& keys, const DeltaKeyGradients& gradients, float* scratch) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(keys.dim));
  const int64_t group = gradients.value_heads / keys.heads;
  float *x = scratch, *gradient = scratch + keys.padded_dim;
  const auto row = [&](const DeltaSource& source, const float* normal, float factor,
                       const DeltaTarget& target, int64_t t, int64_t h) HWY_ATTR {
    load_values(source, t * source.token_stride + h * keys.dim, keys.dim, keys.padded_dim, x);
    const float* rows = normal + (t * gradients.value_heads + h * group) * keys.padded_dim;
    norm_gradient(x, rows, group, factor, keys.padded_dim, gradient);
    store_values(gradient, keys.dim, target, t * target.token_stride + h * keys.dim);
  };
  for (int64_t t = keys.first_token; t < keys.end_token; ++t)
    for (int64_t h = 0; h < keys.heads; ++h) {
      row(keys.q, gradients.q_normal, scale, gradients.q, t, h);
      row(keys.k, gradients.k_normal, 1.0F, gradients.k, t, h);
    }
}

}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

HWY_EXPORT(forward_span);
HWY_EXPORT(normalize);
HWY_EXPORT(normalize_backward);

void delta_forward(const DeltaTokens& tokens,
                   const DeltaSpan& span,
                   const DeltaStates& states,
                   const DeltaTarget& output,
                   float* scratch) {
  HWY_DYNAMIC_DISPATCH(forward_span)(tokens, span, states, output, scratch);
}
int64_t delta_forward_scratch(int64_t key_dim) { return key_dim * kDeltaTileColumns; }

void delta_normalize(const DeltaKeys& keys, float* q_normal, float* k_normal, float* qk) {
  HWY_DYNAMIC_DISPATCH(normalize)(keys, q_normal, k_normal, qk);
}
void delta_normalize_backward(const DeltaKeys& keys,
                              const DeltaKeyGradients& gradients,
                              float* scratch) {
  HWY_DYNAMIC_DISPATCH(normalize_backward)(keys, gradients, scratch);
}

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
