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

/// o = decay S^T q + <q, k> delta, which is S'^T q of the updated state without another pass over it.
HWY_INLINE void output_of(
    const float* by_q, const float* delta, float decay, float qk, float* output) {
  const DeltaFloat d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t c = 0; c < kDeltaTileColumns; c += lanes) {
    const auto carried = hn::Mul(hn::Set(d, decay), hn::LoadU(d, by_q + c));
    hn::StoreU(hn::MulAdd(hn::Set(d, qk), hn::LoadU(d, delta + c), carried), d, output + c);
  }
}

/// One tile over all tokens. Each pass over the tile updates it by token t and multiplies it by the keys and queries of
/// token t + 1; the first reads the caller's state and the last writes it, where it has whole tiles.
void forward_tile(const DeltaTokens& tokens,
                  const DeltaSpan& span,
                  const DeltaStates& states,
                  int64_t tile,
                  float* output,
                  float* scratch) {
  const TileView view{tokens, span.first_token, span.head, tile * kDeltaTileColumns};
  const int64_t rows = tokens.key_dim, last = span.length - 1;
  const bool whole = view.columns() == kDeltaTileColumns;
  const TilePlace local{scratch, kDeltaTileColumns};
  TilePlace from = local;
  if (whole && states.initial) {
    from = {const_cast<float*>(states.initial) + view.column, tokens.value_dim};  // only read
  } else {
    load_tile(states.initial ? states.initial + view.column : nullptr, tokens.value_dim,
              view.columns(), rows, local.data);
  }
  HWY_ALIGN float by_k[kDeltaTileColumns], by_q[kDeltaTileColumns];
  HWY_ALIGN float error[kDeltaTileColumns], delta[kDeltaTileColumns];
  step_tile<false, true, true>(from, from, rows, {}, {view.k(0), view.q(0), by_k, by_q});
  for (int64_t t = 0; t <= last; ++t) {
    const float decay = view.decay(t);
    delta_of(view.v(t), by_k, decay, view.beta(t), error, delta);
    output_of(by_q, delta, decay, tokens.qk[view.key_row(t)], output + view.value_offset(t));
    const TileUpdate update{view.k(t), delta, decay};
    if (t == last) {
      const TilePlace to = whole ? TilePlace{states.final + view.column, tokens.value_dim} : local;
      step_tile<true, false, false>(from, to, rows, update, {});
      break;
    }
    step_tile<true, true, true>(from, local, rows, update,
                                {view.k(t + 1), view.q(t + 1), by_k, by_q});
    from = local;
    if (states.checkpoints && (t + 1) % kGatedDeltaCheckpoint == 0) {
      const int64_t index = (t + 1) / kGatedDeltaCheckpoint - 1;
      save_tile(local.data, rows, view.columns(),
                states.checkpoints + index * states.checkpoint_stride + view.column,
                tokens.value_dim);
    }
  }
  if (!whole)
    save_tile(local.data, rows, view.columns(), states.final + view.column, tokens.value_dim);
}

void forward_span(const DeltaTokens& tokens,
                  const DeltaSpan& span,
                  const DeltaStates& states,
                  float* output,
                  float* scratch) {
  for (int64_t tile = span.first_tile; tile < span.end_tile; ++tile)
    forward_tile(tokens, span, states, tile, output, scratch);
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

HWY_INLINE void scale_row(const float* x, float factor, int64_t padded, float* to) {
  const DeltaFloat d;
  for (int64_t i = 0; i < padded; i += static_cast<int64_t>(hn::Lanes(d)))
    hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor)), d, to + i);
}

void normalize_rows(const DeltaKeys& keys, float* q_normal, float* k_normal, float* qk) {
  const int64_t padded = keys.padded_key_dim;
  const float scale = 1.0F / std::sqrt(static_cast<float>(keys.key_dim));
  for (int64_t row = 0; row < keys.rows; ++row) {
    const int64_t at = row * padded;
    scale_row(keys.q + at, reciprocal_norm(keys.q + at, padded) * scale, padded, q_normal + at);
    scale_row(keys.k + at, reciprocal_norm(keys.k + at, padded), padded, k_normal + at);
    qk[row] = dot(q_normal + at, k_normal + at, padded);
  }
}

/// dx = r (dy - y <dy, y>), y = x r, dy = scale (sum of the group's rows).
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

void normalize_rows_backward(const DeltaKeys& keys,
                             const DeltaKeyGradients& gradients,
                             float* q_gradient,
                             float* k_gradient) {
  const int64_t padded = keys.padded_key_dim, group = gradients.group;
  const float scale = 1.0F / std::sqrt(static_cast<float>(keys.key_dim));
  for (int64_t row = 0; row < keys.rows; ++row) {
    const int64_t at = row * padded;
    norm_gradient(keys.q + at, gradients.dq + at * group, group, scale, padded, q_gradient + at);
    norm_gradient(keys.k + at, gradients.dk + at * group, group, 1.0F, padded, k_gradient + at);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

HWY_EXPORT(forward_span);
HWY_EXPORT(normalize_rows);
HWY_EXPORT(normalize_rows_backward);

void delta_forward(const DeltaTokens& tokens,
                   const DeltaSpan& span,
                   const DeltaStates& states,
                   float* output,
                   float* scratch) {
  HWY_DYNAMIC_DISPATCH(forward_span)(tokens, span, states, output, scratch);
}
int64_t delta_forward_scratch(int64_t key_dim) { return key_dim * kDeltaTileColumns; }

void delta_normalize(const DeltaKeys& keys, float* q_normal, float* k_normal, float* qk) {
  HWY_DYNAMIC_DISPATCH(normalize_rows)(keys, q_normal, k_normal, qk);
}
void delta_normalize_backward(const DeltaKeys& keys,
                              const DeltaKeyGradients& gradients,
                              float* q_gradient,
                              float* k_gradient) {
  HWY_DYNAMIC_DISPATCH(normalize_rows_backward)(keys, gradients, q_gradient, k_gradient);
}

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
