// The attention kernels: one tile of query rows of one key head, forward and backward. No libtorch
// in here; ops/attention_tiles.h runs them over sequences and threads.
// SPDX-License-Identifier: Apache-2.0
//
// Keys are taken in blocks of kKeyBlock tokens counted from a sequence's first token. Every sum of
// a query row runs over dimensions or keys in ascending order, so that its bits depend on that row,
// its keys and its values alone: not on the other rows of a tile, on where the keys lie, or on the
// width of the processor's vectors.
#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

/// Keys that one step of the online softmax takes.
inline constexpr int64_t kKeyBlock = 32;
/// Query rows (tokens times heads of the group) that a tile holds, unless one token alone has more.
inline constexpr int64_t kTileRows = 64;

/// Tokens in a tile.
inline int64_t tile_tokens(int64_t group) { return group < kTileRows ? kTileRows / group : 1; }

/// Where the keys or values of a sequence lie: one behind another, in two such pieces, or in pages
/// of a cache.
template <class T>
struct SequenceRows {
  /// The first token (of page 0) at one key head, Dh adjacent elements.
  const T* data = nullptr;
  /// Elements from a token to the next one (of its page).
  int64_t token_stride = 0;
  /// Elements from a key head to the next one.
  int64_t head_stride = 0;
  /// Page of tokens [i page_size, (i + 1) page_size); null: all in one.
  const int32_t* pages = nullptr;
  int64_t page_size = 0;
  int64_t page_stride = 0;
  /// Tokens [0, shared_tokens), those of the sequence that this one continues, lie at `shared`, and
  /// `data` is behind them.
  const T* shared = nullptr;
  int64_t shared_tokens = 0;

  /// The same tokens at another key head: `heads` further on.
  SequenceRows at_head(int64_t heads) const {
    SequenceRows rows = *this;
    rows.data += heads * head_stride;
    if (shared) rows.shared += heads * head_stride;
    return rows;
  }
};

/// Consecutive query tokens of one sequence, at the heads of one key head.
///
/// Token i's query of the group's head g is at q + i token_stride + g head_dim; so are output,
/// doutput and dq. Its log-sum-exp is at log_sum_exp + i heads_stride + g.
template <class T>
struct QueryTile {
  const T* q = nullptr;
  /// Written by the forward, read by the backward.
  T* output = nullptr;
  /// Written by the forward unless null, read by the backward.
  float* log_sum_exp = nullptr;
  int64_t token_stride = 0, heads_stride = 0;
  int64_t num_tokens = 0, group = 0, head_dim = 0;
  /// Where token 0 stands in its sequence: it sees the keys up to that position.
  int64_t first_position = 0;
  float scale = 1;

  int64_t rows() const { return num_tokens * group; }
};

/// Floats of scratch memory, aligned to 64 bytes, that attend() needs for tiles of up to `rows`
/// rows.
int64_t attend_workspace(int64_t rows, int64_t head_dim);

/// Keys that the calling thread is likely to need next: they are asked for in time.
template <class T>
struct NextKeys {
  SequenceRows<T> rows;
  /// 0: not known.
  int64_t count = 0;
};

/// output = softmax(q k^T scale + causal) v.
template <class T>
void attend(const QueryTile<T>& tile,
            const SequenceRows<T>& keys,
            const SequenceRows<T>& values,
            const NextKeys<T>& next,
            float* workspace);

/// The gradients that one whole sequence gives at one key head: `queries` are all its own tokens.
template <class T>
struct SequenceGradients {
  QueryTile<T> queries;
  SequenceRows<T> keys, values;
  /// Laid out as queries.q, as is dq.
  const T* doutput = nullptr;
  T* dq = nullptr;
  /// Rows of the keys that this sequence alone sees: those from position `common_keys` on,
  /// key_stride apart.
  T *dk = nullptr, *dv = nullptr;
  int64_t key_stride = 0;
  /// This sequence's part for keys that others see too: rows of positions [0, common_keys),
  /// common_stride apart.
  float *common_dk = nullptr, *common_dv = nullptr;
  int64_t common_keys = 0, common_stride = 0;
};

/// Floats of scratch memory, aligned to 64 bytes, that attend_backward() needs for sequences of up
/// to `tokens` keys.
int64_t attend_backward_workspace(int64_t tokens, int64_t group, int64_t head_dim);

/// dq, dk and dv from doutput, output and log_sum_exp.
template <class T>
void attend_backward(const SequenceGradients<T>& sequence, float* workspace);

}  // namespace lockstep::ops::cpu
