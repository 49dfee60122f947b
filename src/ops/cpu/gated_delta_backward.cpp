// The backward of the gated delta rule over one head's tiles: states of a segment are recomputed
// from its checkpoint, in two levels, then the tokens are walked back.
// SPDX-License-Identifier: Apache-2.0
//
// Of one token, with S_ = decay S_prev, error = v - S_^T k, delta = beta error, S = S_ + k delta^T,
// o = S^T q:
//   A:  dS += q do^T;  dq = S do;  ddelta = dS^T k;  dv = beta ddelta;  dbeta = <ddelta, error>
//   B:  dk = dS delta - S_ dv;  dS_ = dS - k dv^T;
//       dlog_decay = decay <dS_, S_prev>;  dS_prev = decay dS_
// B of a token and A of the one before it read the same state, and are one pass over the tile.
#include "ops/cpu/gated_delta.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/gated_delta_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/gated_delta-inl.h"

// Tokens whose states are held at once: 8 tiles of 16 KiB and the 8 where they start stay in the
// second-level cache.
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
        error(states + kDeltaGroup * tile),
        delta(error + kGatedDeltaCheckpoint * kDeltaTileColumns) {}
  /// The state before token j of a group, or after the last.
  float* state(int64_t group, int64_t j) const {
    return j == 0 ? starts + group * tile : states + (j - 1) * tile;
  }

  int64_t tile;
  /// [Dk, 32] dS.
  float* state_gradient;
  /// [Dk, 32]
  float* running;
  /// The states before each group of a segment.
  float* starts;
  /// The states after each token of a group.
  float* states;
  /// [64, 32] of a segment.
  float* error;
  /// [64, 32]
  float* delta;
};

/// Tokens first .. first + length of a span's sequence, at most a checkpoint's distance.
struct Segment {
  int64_t first, length;
};

/// From the state before the segment: errors and deltas of its tokens and the states before each
/// group.
void recompute_groups(const TileView& view,
                      const Segment& segment,
                      const BackwardScratch& scratch) {
  const int64_t rows = view.rows;
  HWY_ALIGN float by_k[kDeltaTileColumns];
  TilePlace from{scratch.starts, kDeltaTileColumns};
  step_tile<false, true, false>(from, from, rows, {},
                                {view.k(segment.first), nullptr, by_k, nullptr});
  for (int64_t i = 0; i < segment.length; ++i) {
    const int64_t t = segment.first + i;
    view.prefetch(t + 2);
    float *error = scratch.error + i * kDeltaTileColumns,
          *delta = scratch.delta + i * kDeltaTileColumns;
    for (int64_t c = 0; c < kDeltaTileColumns;
         c += 2 * static_cast<int64_t>(hn::Lanes(DeltaFloat())))
      delta_of(view, t, c, by_k, error, delta);
    if (i + 1 == segment.length) return;
    const bool starts_group = (i + 1) % kDeltaGroup == 0;
    const TilePlace to{
        starts_group ? scratch.starts + (i + 1) / kDeltaGroup * scratch.tile : scratch.running,
        kDeltaTileColumns};
    step_tile<true, true, false>(from, to, rows, {view.k(t), delta, view.decay(t)},
                                 {view.k(t + 1), nullptr, by_k, nullptr});
    from = to;
  }
}

/// The states after each token of a group but the last, and after that too if `with_end`: the same
/// steps again.
void recompute_states(const TileView& view,
                      const Segment& segment,
                      int64_t group,
                      bool with_end,
                      const BackwardScratch& scratch) {
  const int64_t first = group * kDeltaGroup;
  const int64_t count = std::min(kDeltaGroup, segment.length - first) - (with_end ? 0 : 1);
  for (int64_t j = 0; j < count; ++j) {
    const int64_t t = segment.first + first + j;
    const TilePlace from{scratch.state(group, j), kDeltaTileColumns},
        to{scratch.state(group, j + 1), kDeltaTileColumns};
    step_tile<true, false, false>(
        from, to, view.rows,
        {view.k(t), scratch.delta + (first + j) * kDeltaTileColumns, view.decay(t)}, {});
  }
}

/// B of one token.
struct WalkOld {
  const float* k = nullptr;
  /// [32]
  const float* delta = nullptr;
  /// [32]
  const float* dv = nullptr;
  float decay = 1;
  /// [Dkp], added to.
  float* dk = nullptr;
};
/// A of the token before it.
struct WalkNew {
  const float* q = nullptr;
  const float* k = nullptr;
  /// [32]
  const float* output_gradient = nullptr;
  /// [Dkp], added to.
  float* dq = nullptr;
};
/// Sums over the rows of a tile, by columns.
struct WalkSums {
  /// Of the new token.
  HWY_ALIGN float ddelta[kDeltaTileColumns];
  /// <dS_, S_prev> of the old one.
  HWY_ALIGN float log_decay[kDeltaTileColumns];
};

/// As many rows as a vector has lanes, and what is left of their sums over the columns before the
/// lanes are added.
constexpr int64_t kBlockRows = static_cast<int64_t>(hn::MaxLanes(DeltaFloat()));
struct WalkBlock {
  int64_t first = 0, end = 0;
  HWY_ALIGN float dk_lanes[kBlockRows * kBlockRows];
  HWY_ALIGN float dq_lanes[kBlockRows * kBlockRows];
};

/// Some rows of one pass over the tile `state` (between the two tokens) and its gradient, 2 vectors
/// from column c on.
template <bool kOld, bool kNew>
HWY_INLINE void walk_rows(const float* state,
                          float* gradient,
                          int64_t c,
                          const WalkOld& old,
                          const WalkNew& next,
                          WalkBlock& block,
                          WalkSums& sums) {
  const DeltaFloat d;
  const auto decay = hn::Set(d, old.decay);
  DeltaVector delta0, delta1, dv0, dv1, do0, do1, ddelta0, ddelta1, decay0, decay1;
  if constexpr (kOld)
    load_pair(old.delta + c, delta0, delta1), load_pair(old.dv + c, dv0, dv1),
        load_pair(sums.log_decay + c, decay0, decay1);
  if constexpr (kNew)
    load_pair(next.output_gradient + c, do0, do1), load_pair(sums.ddelta + c, ddelta0, ddelta1);
  for (int64_t i = block.first; i < block.end; ++i) {
    DeltaVector s0, s1, g0, g1;
    load_pair(state + i * kDeltaTileColumns + c, s0, s1);
    load_pair(gradient + i * kDeltaTileColumns + c, g0, g1);
    const int64_t at = (i - block.first) * kBlockRows;
    if constexpr (kOld) {
      const auto k = hn::Set(d, old.k[i]);
      auto dk = hn::MulAdd(g1, delta1, hn::Mul(g0, delta0));
      if (c > 0) dk = hn::Add(dk, hn::LoadU(d, block.dk_lanes + at));
      const auto predicted = hn::MulAdd(s1, dv1, hn::Mul(s0, dv0));
      hn::StoreU(hn::NegMulAdd(decay, predicted, dk), d, block.dk_lanes + at);
      g0 = hn::NegMulAdd(k, dv0, g0), g1 = hn::NegMulAdd(k, dv1, g1);
      decay0 = hn::MulAdd(g0, s0, decay0), decay1 = hn::MulAdd(g1, s1, decay1);
      g0 = hn::Mul(decay, g0), g1 = hn::Mul(decay, g1);
    }
    if constexpr (kNew) {
      const auto q = hn::Set(d, next.q[i]), k = hn::Set(d, next.k[i]);
      g0 = hn::MulAdd(q, do0, g0), g1 = hn::MulAdd(q, do1, g1);
      ddelta0 = hn::MulAdd(k, g0, ddelta0), ddelta1 = hn::MulAdd(k, g1, ddelta1);
      auto dq = hn::MulAdd(s1, do1, hn::Mul(s0, do0));
      if (c > 0) dq = hn::Add(dq, hn::LoadU(d, block.dq_lanes + at));
      hn::StoreU(dq, d, block.dq_lanes + at);
    }
    store_pair(g0, g1, gradient + i * kDeltaTileColumns + c);
  }
  if constexpr (kOld) store_pair(decay0, decay1, sums.log_decay + c);
  if constexpr (kNew) store_pair(ddelta0, ddelta1, sums.ddelta + c);
}

#if HWY_HAVE_SCALABLE || HWY_TARGET == HWY_SCALAR
/// Adds to to[i] the sum of the lanes of row i.
HWY_INLINE void add_lanes(const float* rows_lanes, float* to) {
  const DeltaFloat d;
  for (int64_t i = 0; i < kBlockRows; ++i) {
    const auto row = hn::LoadU(d, rows_lanes + i * kBlockRows);
    to[i] += hn::GetLane(hn::SumOfLanes(d, row));
  }
}
#else
/// The lane sums of kRows rows: neighbours are added, and the halves of two vectors go on as one.
template <int64_t kRows>
HWY_INLINE DeltaVector sum_rows(const float* rows_lanes) {
  const DeltaFloat d;
  if constexpr (kRows == 1) {
    return hn::LoadU(d, rows_lanes);
  } else {
    const auto low = sum_rows<kRows / 2>(rows_lanes);
    const auto high = sum_rows<kRows / 2>(rows_lanes + kRows / 2 * kBlockRows);
    return hn::Add(hn::ConcatEven(d, high, low), hn::ConcatOdd(d, high, low));
  }
}

/// Adds to to[i] the sum of the lanes of row i.
HWY_INLINE void add_lanes(const float* rows_lanes, float* to) {
  const DeltaFloat d;
  hn::StoreU(hn::Add(hn::LoadU(d, to), sum_rows<kBlockRows>(rows_lanes)), d, to);
}
#endif

/// One pass over the tile `state` (between the two tokens) and its gradient. By blocks of rows, so
/// that the sums over columns, which are shuffles, run beside the products of the next rows.
template <bool kOld, bool kNew>
HWY_INLINE void walk_tile(const float* state,
                          float* gradient,
                          int64_t rows,
                          const WalkOld& old,
                          const WalkNew& next,
                          WalkSums& sums) {
  const int64_t step = 2 * static_cast<int64_t>(hn::Lanes(DeltaFloat()));
  sums = {};
  WalkBlock block;
  for (block.first = 0; block.first < rows; block.first = block.end) {
    block.end = std::min(block.first + kBlockRows, rows);
    if (block.end - block.first < kBlockRows) {  // the last, with rows of the padding
      std::memset(block.dk_lanes, 0, sizeof(block.dk_lanes));
      std::memset(block.dq_lanes, 0, sizeof(block.dq_lanes));
    }
    for (int64_t c = 0; c < kDeltaTileColumns; c += step)
      walk_rows<kOld, kNew>(state, gradient, c, old, next, block, sums);
    if constexpr (kOld) add_lanes(block.dk_lanes, old.dk + block.first);
    if constexpr (kNew) add_lanes(block.dq_lanes, next.dq + block.first);
  }
}

/// The sum of a tile's row.
HWY_INLINE float sum_of_columns(const float* row) {
  const DeltaFloat d;
  auto sum = hn::Zero(d);
  for (int64_t c = 0; c < kDeltaTileColumns; c += static_cast<int64_t>(hn::Lanes(d)))
    sum = hn::Add(sum, hn::LoadU(d, row + c));
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

/// dv = beta ddelta, written to `target` too; returns <ddelta, error>.
HWY_INLINE float value_gradient(const TileView& view,
                                int64_t t,
                                const float* delta_gradient,
                                const float* error,
                                float* dv,
                                const DeltaTarget& target) {
  const DeltaFloat d;
  const auto beta = hn::Set(d, view.beta(t));
  auto sum = hn::Zero(d);
  for (int64_t c = 0; c < kDeltaTileColumns; c += 2 * static_cast<int64_t>(hn::Lanes(d))) {
    DeltaVector ddelta0, ddelta1, error0, error1;
    load_pair(delta_gradient + c, ddelta0, ddelta1);
    load_pair(error + c, error0, error1);
    sum = hn::MulAdd(ddelta1, error1, hn::MulAdd(ddelta0, error0, sum));
    const auto dv0 = hn::Mul(beta, ddelta0), dv1 = hn::Mul(beta, ddelta1);
    store_pair(dv0, dv1, dv + c);
    view.store(dv0, dv1, target, t, c);
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
    walk_tile<false, true>(final_state, scratch_.state_gradient, view_.rows, {}, next(last), sums_);
  }

  /// B of token t and A of token t - 1, from the state between them.
  void step(int64_t t, int64_t index_in_segment, const float* state) {
    view_.prefetch(t - 3);
    view_.prefetch_values(gradients_.output, t - 3);
    view_.prefetch_keys(row_of(gradients_.q, t - 3));
    view_.prefetch_keys(row_of(gradients_.k, t - 2));
    const int64_t row = view_.value_row(t), at = index_in_segment * kDeltaTileColumns;
    gradients_.beta[row] +=
        value_gradient(view_, t, sums_.ddelta, scratch_.error + at, dv_, gradients_.v);
    const WalkOld old{view_.k(t), scratch_.delta + at, dv_, view_.decay(t),
                      row_of(gradients_.k, t)};
    if (t > 0)
      walk_tile<true, true>(state, scratch_.state_gradient, view_.rows, old, next(t - 1), sums_);
    else
      walk_tile<true, false>(state, scratch_.state_gradient, view_.rows, old, {}, sums_);
    gradients_.log_decay[row] += view_.decay(t) * sum_of_columns(sums_.log_decay);
  }

 private:
  WalkNew next(int64_t t) {
    for (int64_t c = 0; c < kDeltaTileColumns;
         c += 2 * static_cast<int64_t>(hn::Lanes(DeltaFloat()))) {
      DeltaVector first, second;
      view_.load(gradients_.output, t, c, first, second);
      store_pair(first, second, output_gradient_ + c);
    }
    return {view_.q(t), view_.k(t), output_gradient_, row_of(gradients_.q, t)};
  }
  float* row_of(float* keys, int64_t t) const {
    return keys + view_.value_row(t) * view_.padded_rows;
  }

  const TileView& view_;
  const DeltaGradients& gradients_;
  const BackwardScratch& scratch_;
  WalkSums sums_;
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
      if (ends_sequence) walk.begin(length - 1, scratch.state(group, end - first));
      for (int64_t i = end - 1; i >= first; --i)
        walk.step(segment.first + i, i, scratch.state(group, i - first));
    }
  }
}

void backward_span(const DeltaTokens& tokens,
                   const DeltaSpan& span,
                   const DeltaStates& states,
                   const DeltaGradients& gradients,
                   float* memory) {
  const BackwardScratch scratch(memory, tokens.key_dim);
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
  const int64_t tiles = 1 + 1 + kDeltaGroups + kDeltaGroup;
  return (tiles * key_dim + 2 * kGatedDeltaCheckpoint) * kDeltaTileColumns;
}

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
