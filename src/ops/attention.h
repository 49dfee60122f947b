// Causal attention with grouped queries: over packed sequences (training, scoring) and over a paged
// cache (sampling). One row kernel serves both, so that a query row's bits depend only on that row
// and its keys and values in order.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T packed query tokens, H query heads, Hkv key/value heads, Dh head dim, P pages, Q page
// size (tokens).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/sequences.h"

namespace lockstep::ops {

/// softmax(q k^T scale + causal) v within each sequence; query head h reads key head h / (H / Hkv).
///
/// Shapes: q [T, H, Dh]; k, v [T, Hkv, Dh] -> [T, H, Dh] in q's dtype (float32 or bfloat16).
/// Numerics: float32 inside (scores, softmax, sums), one rounding at the end. Online softmax over
/// fixed blocks of keys. Gradients: for q, k, v, by recomputing the probabilities from the saved
/// log-sum-exp [T, H]. Throws: ShapeError. Source: Dao et al., arXiv:2205.14135, algorithms 1
/// and 4.
at::Tensor causal_attention(const at::Tensor& q,
                            const at::Tensor& k,
                            const at::Tensor& v,
                            const PackedSequences& sequences,
                            double scale);

/// Where a batch's keys and values lie in the paged cache.
///
/// Sequence b's token t is in page block_table[b * max_blocks + t / Q], row t % Q. Its new tokens
/// are the last `sequences.length(b)` of its context_lengths[b] tokens.
struct PagedBatch {
  /// The new tokens.
  PackedSequences sequences;
  /// [B] keys of each sequence, the new ones included.
  std::vector<int32_t> context_lengths;
  /// [B * max_blocks], unused entries 0.
  std::vector<int32_t> block_table;
  int64_t max_blocks = 0;
};

/// Writes the new tokens' keys and values into their pages.
///
/// Shapes: k, v [T, Hkv, Dh]; k_cache, v_cache [P, Hkv, Q, Dh], same dtype, updated in place.
void store_keys_values(const at::Tensor& k,
                       const at::Tensor& v,
                       const at::Tensor& k_cache,
                       const at::Tensor& v_cache,
                       const PagedBatch& batch);

/// causal_attention of the new tokens over all keys in the cache, bit-equal to it for any split
/// into calls and pages. No gradients.
///
/// Shapes: q [T, H, Dh]; k_cache, v_cache [P, Hkv, Q, Dh] -> [T, H, Dh].
at::Tensor paged_attention(const at::Tensor& q,
                           const at::Tensor& k_cache,
                           const at::Tensor& v_cache,
                           const PagedBatch& batch,
                           double scale);

}  // namespace lockstep::ops
