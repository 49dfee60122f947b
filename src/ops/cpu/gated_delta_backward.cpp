// The backward of the gated delta rule over one head's tiles: states of a segment are recomputed from its checkpoint, in
// two levels, then the tokens are walked back.
// SPDX-License-Identifier: Apache-2.0
//
// Of one token, with S_ = decay S_prev, error = v - S_^T k, delta = beta error, S = S_ + k delta^T, o = S^T q:
//   A:  dS += q do^T;  dq = S do;  ddelta = dS^T k;  dv = beta ddelta;  dbeta = <ddelta, error>
//   B:  dk = dS delta - S_ dv;  dS_ = dS - k dv^T;  dlog_decay = decay <dS_, S_prev>;  dS_prev = decay dS_
// B of a token and A of the one before it read the same state, and are one pass over the tile.
#include "ops/cpu/gated_delta.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/gated_delta_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/gated_delta-inl.h"

// Tokens whose states are held at once: 8 tiles of 16 KiB and the 8 where they start stay in the second-level cache.
#ifndef LOCKSTEP_OPS_CPU_GATED_DELTA_BACKWARD_ONCE
#define LOCKSTEP_OPS_CPU_GATED_DELTA_BACKWARD_ONCE
namespace lockstep::ops::cpu {
inline constexpr int64_t kDeltaGroup = 8;
inline constexpr int64_t kDeltaGroups = kGatedDeltaCheckpoint / kDeltaGroup;
static_assert(kGatedDeltaCheckpoint % kDeltaGroup == 0);
}  // namespace lockstep::ops::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Memory of one tile's way back.
struct BackwardScratch {
  BackwardScratch(float* memory, int64_t key_dim)
      : tile(key_dim * kDeltaTileColumns),
        state_gradient(memory),
        running(state_gradient + tile),
        starts(running + tile),
        states(starts + kDeltaGroups * tile),
        error(states + (kDeltaGroup + 1) * tile),
        delta(error + kGatedDeltaCheckpoint * kDeltaTileColumns),
        dk_lanes(delta + kGatedDeltaCheckpoint * kDeltaTileColumns),
        dq_lanes(dk_lanes + lanes_size(key_dim)) {}
  /// 16 floats for each padded row: what is left of a row's sum before its lanes are added.
  static int64_t lanes_size(int64_t key_dim) {
    return (key_dim + kDeltaKeyPadding - 1) / kDeltaKeyPadding * kDeltaKeyPadding * 16;
  }

  int64_t tile;
  float* state_gradient;  ///< [Dk, 32] dS.
  float* running;         ///< [Dk, 32]
  float* starts;          ///< The states before each group of a segment.
  float* states;          ///< The states before each token of a group, and after the last.
  float* error;           ///< [64, 32] of a segment.
  float* delta;           ///< [64, 32]
  float* dk_lanes;
  float* dq_lanes;
};

/// Tokens first .. first + length of a span's sequence, at most a checkpoint's distance.
struct Segment {
  int64_t first, length;
};

/// From the state before the segment: errors and deltas of its tokens and the states before each group.
void recompute_groups(const TileView& view,
                      const Segment& segment,
                      const BackwardScratch& scratch) {
  const int64_t rows = view.rows;
  HWY_ALIGN float by_k[kDeltaTileColumns], v[kDeltaTileColumns];
  TilePlace from{scratch.starts, kDeltaTileColumns};
  step_tile<false, true, false>(from, from, rows, {},
                                {view.k(segment.first), nullptr, by_k, nullptr});
  for (int64_t i = 0; i < segment.length; ++i) {
    const int64_t t = segment.first + i;
    view.prefetch(t + 2);
    const float decay = view.decay(t);
    float* delta = scratch.delta + i * kDeltaTileColumns;
    view.load_v(t, v);
    delta_of(v, by_k, decay, view.beta(t), scratch.error + i * kDeltaTileColumns, delta);
    if (i + 1 == segment.length) return;
    const bool starts_group = (i + 1) % kDeltaGroup == 0;
    const TilePlace to{
        starts_group ? scratch.starts + (i + 1) / kDeltaGroup * scratch.tile : scratch.running,
        kDeltaTileColumns};
    step_tile<true, true, false>(from, to, rows, {view.k(t), delta, decay},
                                 {view.k(t + 1), nullptr, by_k, nullptr});
    from = to;
  }
}

/// The states before each token of a group, and after its last if `with_end`. Returns nothing new in bits: the same steps.
void recompute_states(const TileView& view,
                      const Segment& segment,
                      int64_t group,
                      bool with_end,
                      const BackwardScratch& scratch) {
  const int64_t rows = view.rows, first = group * kDeltaGroup;
  const int64_t count = std::min(kDeltaGroup, segment.length - first);
  std::memcpy(scratch.states, scratch.starts + group * scratch.tile,
              static_cast<size_t>(scratch.tile) * sizeof(float));
  for (int64_t j = 0; j < count - (with_end ? 0 : 1); ++j) {
    const int64_t t = segment.first + first + j;
    const TilePlace from{scratch.states + j * scratch.tile, kDeltaTileColumns};
    const TilePlace to{scratch.states + (j + 1) * scratch.tile, kDeltaTileColumns};
    step_tile<true, false, false>(
        from, to, rows, {view.k(t), scratch.delta + (first + j) * kDeltaTileColumns, view.decay(t)},
        {});
  }
}

/// B of one token.
struct WalkOld {
  const float* k = nullptr;
  const float* delta = nullptr;  ///< [32]
  const float* dv = nullptr;     ///< [32]
  float decay = 1;
  float* dk_lanes = nullptr;
  float log_decay_gradient = 0;  ///< Result.
};
/// A of the token before it.
struct WalkNew {
  const float* q = nullptr;
  const float* k = nullptr;
  const float* output_gradient = nullptr;  ///< [32]
  float* dq_lanes = nullptr;
  float* delta_gradient = nullptr;  ///< [32], result.
};

/// One pass over the tile `state` (between the two tokens) and its gradient.
template <bool kOld, bool kNew>
HWY_INLINE void walk_tile(
    const float* state, float* gradient, int64_t rows, WalkOld& old, const WalkNew& next) {
  const DeltaFloat d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto decay = hn::Set(d, old.decay);
  const auto zero = hn::Zero(d);
  auto decay_sum0 = zero, decay_sum1 = zero;
  for (int64_t c = 0; c < kDeltaTileColumns; c += 2 * lanes) {
    auto delta0 = zero, delta1 = zero, dv0 = zero, dv1 = zero, do0 = zero, do1 = zero;
    if constexpr (kOld) {
      delta0 = hn::LoadU(d, old.delta + c), delta1 = hn::LoadU(d, old.delta + c + lanes);
      dv0 = hn::LoadU(d, old.dv + c), dv1 = hn::LoadU(d, old.dv + c + lanes);
    }
    const auto decayed_dv0 = hn::Mul(decay, dv0), decayed_dv1 = hn::Mul(decay, dv1);
    if constexpr (kNew)
      do0 = hn::LoadU(d, next.output_gradient + c),
      do1 = hn::LoadU(d, next.output_gradient + c + lanes);
    auto ddelta0 = zero, ddelta1 = zero;
    for (int64_t i = 0; i < rows; ++i) {
      const float* s = state + i * kDeltaTileColumns + c;
      float* g = gradient + i * kDeltaTileColumns + c;
      const auto s0 = hn::LoadU(d, s), s1 = hn::LoadU(d, s + lanes);
      auto g0 = hn::LoadU(d, g), g1 = hn::LoadU(d, g + lanes);
      if constexpr (kOld) {
        float* to = old.dk_lanes + i * lanes;
        auto dk = c == 0 ? hn::Mul(g0, delta0) : hn::MulAdd(g0, delta0, hn::LoadU(d, to));
        dk = hn::NegMulAdd(s0, decayed_dv0, hn::MulAdd(g1, delta1, dk));
        hn::StoreU(hn::NegMulAdd(s1, decayed_dv1, dk), d, to);
        const auto k = hn::Set(d, old.k[i]);
        g0 = hn::NegMulAdd(k, dv0, g0), g1 = hn::NegMulAdd(k, dv1, g1);
        decay_sum0 = hn::MulAdd(g0, s0, decay_sum0), decay_sum1 = hn::MulAdd(g1, s1, decay_sum1);
        g0 = hn::Mul(decay, g0), g1 = hn::Mul(decay, g1);
      }
      if constexpr (kNew) {
        const auto q = hn::Set(d, next.q[i]), k = hn::Set(d, next.k[i]);
        g0 = hn::MulAdd(q, do0, g0), g1 = hn::MulAdd(q, do1, g1);
        ddelta0 = hn::MulAdd(k, g0, ddelta0), ddelta1 = hn::MulAdd(k, g1, ddelta1);
        float* to = next.dq_lanes + i * lanes;
        const auto dq = c == 0 ? hn::Mul(s0, do0) : hn::MulAdd(s0, do0, hn::LoadU(d, to));
        hn::StoreU(hn::MulAdd(s1, do1, dq), d, to);
      }
      hn::StoreU(g0, d, g), hn::StoreU(g1, d, g + lanes);
    }
    if constexpr (kNew)
      hn::StoreU(ddelta0, d, next.delta_gradient + c),
          hn::StoreU(ddelta1, d, next.delta_gradient + c + lanes);
  }
  old.log_decay_gradient =
      old.decay * hn::GetLane(hn::SumOfLanes(d, hn::Add(decay_sum0, decay_sum1)));
}

#if HWY_HAVE_SCALABLE || HWY_TARGET == HWY_SCALAR
/// Adds to to[i] the sum of the lanes of row i.
HWY_INLINE void add_lanes(const float* rows_lanes, int64_t padded_rows, float* to) {
  const DeltaFloat d;
  for (int64_t i = 0; i < padded_rows; ++i)
    to[i] += hn::GetLane(
        hn::SumOfLanes(d, hn::LoadU(d, rows_lanes + i * static_cast<int64_t>(hn::Lanes(d)))));
}
#else
/// The lane sums of kRows vectors as one vector (of all lanes when kRows is their number): neighbours are added, and the
/// halves of the rows go on by pairs, so each level costs two shuffles for two rows.
template <int64_t kRows>
HWY_INLINE DeltaVector sum_rows(const float* rows_lanes) {
  const DeltaFloat d;
  if constexpr (kRows == 1) {
    return hn::LoadU(d, rows_lanes);
  } else {
    const auto low = sum_rows<kRows / 2>(rows_lanes);
    const auto high =
        sum_rows<kRows / 2>(rows_lanes + kRows / 2 * static_cast<int64_t>(hn::MaxLanes(d)));
    return hn::Add(hn::ConcatEven(d, high, low), hn::ConcatOdd(d, high, low));
  }
}

/// Adds to to[i] the sum of the lanes of row i.
HWY_INLINE void add_lanes(const float* rows_lanes, int64_t padded_rows, float* to) {
  const DeltaFloat d;
  constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(DeltaFloat()));
  for (int64_t i = 0; i < padded_rows; i += kLanes)
    hn::StoreU(hn::Add(hn::LoadU(d, to + i), sum_rows<kLanes>(rows_lanes + i * kLanes)), d, to + i);
}
#endif

/// dv = beta ddelta; returns <ddelta, error>.
HWY_INLINE float value_gradient(const float* delta_gradient,
                                const float* error,
                                float beta,
                                float* dv) {
  const DeltaFloat d;
  auto sum = hn::Zero(d);
  for (int64_t c = 0; c < kDeltaTileColumns; c += static_cast<int64_t>(hn::Lanes(d))) {
    const auto ddelta = hn::LoadU(d, delta_gradient + c);
    sum = hn::MulAdd(ddelta, hn::LoadU(d, error + c), sum);
    hn::StoreU(hn::Mul(hn::Set(d, beta), ddelta), d, dv + c);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

/// Walks one tile back over its sequence.
class TileWalk {
 public:
  TileWalk(const TileView& view, const DeltaGradients& gradients, const BackwardScratch& scratch)
      : view_(view), gradients_(gradients), scratch_(scratch) {}

  /// A of the sequence's last token, from the state after it.
  void begin(int64_t last, const float* final_state) {
    WalkOld none;
    walk_tile<false, true>(final_state, scratch_.state_gradient, view_.rows, none, next(last));
    add_lanes(scratch_.dq_lanes, view_.padded_rows, row_of(gradients_.q, last));
  }

  /// B of token t and A of token t - 1, from the state between them.
  void step(int64_t t, int64_t index_in_segment, const float* state) {
    view_.prefetch(t - 3);
    const int64_t row = view_.value_row(t), at = index_in_segment * kDeltaTileColumns;
    gradients_.beta[row] +=
        value_gradient(delta_gradient_, scratch_.error + at, view_.beta(t), dv_);
    view_.store(dv_, gradients_.v, t);
    WalkOld old{view_.k(t), scratch_.delta + at, dv_, view_.decay(t), scratch_.dk_lanes};
    if (t > 0) {
      walk_tile<true, true>(state, scratch_.state_gradient, view_.rows, old, next(t - 1));
      add_lanes(scratch_.dq_lanes, view_.padded_rows, row_of(gradients_.q, t - 1));
    } else {
      walk_tile<true, false>(state, scratch_.state_gradient, view_.rows, old, {});
    }
    add_lanes(scratch_.dk_lanes, view_.padded_rows, row_of(gradients_.k, t));
    gradients_.log_decay[row] += old.log_decay_gradient;
  }

 private:
  WalkNew next(int64_t t) {
    view_.load(gradients_.output, t, output_gradient_);
    return {view_.q(t), view_.k(t), output_gradient_, scratch_.dq_lanes, delta_gradient_};
  }
  float* row_of(float* keys, int64_t t) const {
    return keys + view_.value_row(t) * view_.padded_rows;
  }

  const TileView& view_;
  const DeltaGradients& gradients_;
  const BackwardScratch& scratch_;
  HWY_ALIGN float delta_gradient_[kDeltaTileColumns];
  HWY_ALIGN float output_gradient_[kDeltaTileColumns];
  HWY_ALIGN float dv_[kDeltaTileColumns];
};

void backward_tile(const TileView& view,
                   int64_t length,
                   const DeltaStates& states,
                   const DeltaGradients& gradients,
                   const BackwardScratch& scratch) {
  const int64_t rows = view.rows, value_dim = view.value_dim;
  TileWalk walk(view, gradients, scratch);
  for (int64_t s = (length - 1) / kGatedDeltaCheckpoint; s >= 0; --s) {
    const Segment segment{s * kGatedDeltaCheckpoint,
                          std::min(kGatedDeltaCheckpoint, length - s * kGatedDeltaCheckpoint)};
    const float* start =
        s == 0 ? states.initial : states.checkpoints + (s - 1) * states.checkpoint_stride;
    load_tile(start ? start + view.column : nullptr, value_dim, view.columns, rows, scratch.starts);
    recompute_groups(view, segment, scratch);
    for (int64_t group = (segment.length - 1) / kDeltaGroup; group >= 0; --group) {
      const int64_t first = group * kDeltaGroup,
                    end = std::min(first + kDeltaGroup, segment.length);
      const bool ends_sequence = segment.first + end == length;
      recompute_states(view, segment, group, ends_sequence, scratch);
      if (ends_sequence) walk.begin(length - 1, scratch.states + (end - first) * scratch.tile);
      for (int64_t i = end - 1; i >= first; --i)
        walk.step(segment.first + i, i, scratch.states + (i - first) * scratch.tile);
    }
  }
}

void backward_span(const DeltaTokens& tokens,
                   const DeltaSpan& span,
                   const DeltaStates& states,
                   const DeltaGradients& gradients,
                   float* memory) {
  const BackwardScratch scratch(memory, tokens.key_dim);
  const size_t lanes_bytes =
      static_cast<size_t>(BackwardScratch::lanes_size(tokens.key_dim)) * sizeof(float);
  std::memset(scratch.dk_lanes, 0, lanes_bytes);  // rows of the padding stay zero
  std::memset(scratch.dq_lanes, 0, lanes_bytes);
  for (int64_t tile = span.first_tile; tile < span.end_tile; ++tile) {
    const TileView view(tokens, span, tile);
    float* at = states.final + view.column;
    load_tile(at, tokens.value_dim, view.columns, tokens.key_dim, scratch.state_gradient);
    backward_tile(view, span.length, states, gradients, scratch);
    save_tile(scratch.state_gradient, tokens.key_dim, view.columns, at, tokens.value_dim);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

HWY_EXPORT(backward_span);

void delta_backward(const DeltaTokens& tokens,
                    const DeltaSpan& span,
                    const DeltaStates& states,
                    const DeltaGradients& gradients,
                    float* scratch) {
  HWY_DYNAMIC_DISPATCH(backward_span)(tokens, span, states, gradients, scratch);
}

int64_t delta_backward_scratch(int64_t key_dim) {
  const int64_t padded = (key_dim + kDeltaKeyPadding - 1) / kDeltaKeyPadding * kDeltaKeyPadding;
  const int64_t tiles = 1 + 1 + kDeltaGroups + kDeltaGroup + 1;
  return tiles * key_dim * kDeltaTileColumns + 2 * kGatedDeltaCheckpoint * kDeltaTileColumns +
         2 * padded * 16;
}

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
