// Attention over a paged cache of keys and values. The packed form is in attention.cpp.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/op_timer.h"
#include "ops/attention.h"
#include "ops/attention_tiles.h"
#include "ops/kernel_data.h"
#include "tensor/aten.h"
#include "tensor/parallel.h"

namespace lockstep::ops {
namespace {

void check_batch(const char* op, const at::Tensor& cache, const PagedBatch& batch) {
  const int64_t count = batch.sequences.count(), page_size = cache.size(2);
  if (batch.sequences.has_parents())
    fail<ShapeError>("bad-shape", op, "expected sequences without parents");
  if (static_cast<int64_t>(batch.context_lengths.size()) != count ||
      static_cast<int64_t>(batch.block_table.size()) != count * batch.max_blocks)
    fail<ShapeError>(
        "bad-shape", op, "expected {} context lengths and a block table of {} x {}, got {} and {}",
        count, count, batch.max_blocks, batch.context_lengths.size(), batch.block_table.size());
  for (int64_t b = 0; b < count; ++b) {
    const int64_t keys = batch.context_lengths[b];
    if (keys < batch.sequences.length(b) || keys > batch.max_blocks * page_size)
      fail<ShapeError>("bad-shape", op,
                       "expected a context of {} to {} tokens for sequence {}, got {}",
                       batch.sequences.length(b), batch.max_blocks * page_size, b, keys);
    for (int64_t i = 0; i * page_size < keys; ++i) {
      const int32_t page = batch.block_table[b * batch.max_blocks + i];
      if (page < 0 || page >= cache.size(0))
        fail<ShapeError>("bad-shape", op,
                         "expected pages in [0, {}), got {} in block {} of sequence {}",
                         cache.size(0), page, i, b);
    }
  }
}

void check_cache(const char* op,
                 const at::Tensor& x,
                 const at::Tensor& k_cache,
                 const at::Tensor& v_cache) {
  const bool fits = k_cache.dim() == 4 && k_cache.sizes() == v_cache.sizes() && x.dim() == 3 &&
                    x.size(2) == k_cache.size(3) && k_cache.is_contiguous() &&
                    v_cache.is_contiguous();
  if (!fits)
    fail<ShapeError>("bad-shape", op,
                     "expected contiguous caches [P, Hkv, Q, Dh] for {}, got {} and {}",
                     shape_text(x), shape_text(k_cache), shape_text(v_cache));
  if (k_cache.scalar_type() != x.scalar_type() || v_cache.scalar_type() != x.scalar_type())
    fail<ShapeError>("bad-dtype", op, "expected caches in {}, got {} and {}",
                     at::toString(x.scalar_type()), at::toString(k_cache.scalar_type()),
                     at::toString(v_cache.scalar_type()));
}

/// Copies the new tokens' rows of x [T, Hkv, Dh] to their places in the cache, byte by byte.
void store_rows(const at::Tensor& x, const at::Tensor& cache, const PagedBatch& batch) {
  constexpr int64_t kTokenGrain = 32;
  const at::Tensor rows = x.stride(2) == 1 ? x : x.contiguous();
  const int64_t heads = x.size(1), page_size = cache.size(2);
  const auto element = static_cast<int64_t>(x.element_size()), row_bytes = x.size(2) * element;
  const auto* const from = static_cast<const char*>(rows.const_data_ptr());
  auto* const to = static_cast<char*>(cache.mutable_data_ptr());
  const auto store = [&](int64_t token, int64_t page, int64_t in_page) {
    for (int64_t head = 0; head < heads; ++head)
      std::memcpy(to + ((page * heads + head) * page_size + in_page) * row_bytes,
                  from + (token * rows.stride(0) + head * rows.stride(1)) * element,
                  static_cast<size_t>(row_bytes));
  };
  parallel_for(0, batch.sequences.tokens(), kTokenGrain, [&](int64_t begin, int64_t end) {
    const auto& offsets = batch.sequences.offsets();
    int64_t b = std::upper_bound(offsets.begin(), offsets.end(), begin) - offsets.begin() - 1;
    for (int64_t token = begin; token < end; ++token) {
      while (token >= offsets[b + 1]) ++b;
      const int64_t position = batch.context_lengths[b] - (offsets[b + 1] - token);
      store(token, batch.block_table[b * batch.max_blocks + position / page_size],
            position % page_size);
    }
  });
}

template <class T>
std::vector<AttentionSequence<T>> paged_sequences(const at::Tensor& k_cache,
                                                  const at::Tensor& v_cache,
                                                  const PagedBatch& batch) {
  std::vector<AttentionSequence<T>> sequences(batch.sequences.count());
  for (int64_t b = 0; b < batch.sequences.count(); ++b) {
    auto& sequence = sequences[b];
    sequence.keys = {const_elements<T>(k_cache),
                     k_cache.stride(2),
                     k_cache.stride(1),
                     batch.block_table.data() + b * batch.max_blocks,
                     k_cache.size(2),
                     k_cache.stride(0)};
    sequence.values = sequence.keys;
    sequence.values.data = const_elements<T>(v_cache);
    sequence.first_token = batch.sequences.first_token(b);
    sequence.num_tokens = batch.sequences.length(b);
    sequence.first_position = batch.context_lengths[b] - sequence.num_tokens;
  }
  return sequences;
}

}  // namespace

void store_keys_values(const at::Tensor& k,
                       const at::Tensor& v,
                       const at::Tensor& k_cache,
                       const at::Tensor& v_cache,
                       const PagedBatch& batch) {
  const OpTimer timer("store_keys_values");
  constexpr const char* kOp = "store_keys_values";
  check_cache(kOp, k, k_cache, v_cache);
  check_cache(kOp, v, k_cache, v_cache);
  if (k.sizes() != v.sizes() || k.size(0) != batch.sequences.tokens() ||
      k.size(1) != k_cache.size(1))
    fail<ShapeError>("bad-shape", kOp, "expected k and v [{}, {}, {}], got {} and {}",
                     batch.sequences.tokens(), k_cache.size(1), k_cache.size(3), shape_text(k),
                     shape_text(v));
  check_batch(kOp, k_cache, batch);
  store_rows(k, k_cache, batch);
  store_rows(v, v_cache, batch);
}

at::Tensor paged_attention(const at::Tensor& q,
                           const at::Tensor& k_cache,
                           const at::Tensor& v_cache,
                           const PagedBatch& batch,
                           double scale) {
  const OpTimer timer("paged_attention");
  constexpr const char* kOp = "paged_attention";
  check_cache(kOp, q, k_cache, v_cache);
  if (q.size(0) != batch.sequences.tokens() || q.size(1) % k_cache.size(1) != 0)
    fail<ShapeError>("bad-shape", kOp, "expected q [{}, multiple of {}, {}], got {}",
                     batch.sequences.tokens(), k_cache.size(1), k_cache.size(3), shape_text(q));
  check_dtype(q.scalar_type(), kOp);
  check_batch(kOp, k_cache, batch);
  at::NoGradGuard no_grad;
  AttentionTensors tensors{
      q.contiguous(), at::empty(q.sizes(), q.options()), {}, k_cache.size(1), scale};
  for_dtype(q.scalar_type(), kOp, [&](auto tag) {
    using T = decltype(tag);
    attend_sequences<T>(tensors, paged_sequences<T>(k_cache, v_cache, batch));
  });
  return tensors.output;
}

}  // namespace lockstep::ops
