// SPDX-License-Identifier: Apache-2.0
#include "ops/reference/attention.h"

#include <limits>

#include <ATen/core/IListRef.h>  // the list of at::cat

#include "tensor/aten.h"

namespace lockstep::ops::reference {
namespace {

/// Attention of one sequence's last tokens. Shapes: q [N, H, Dh]; k, v [S, Hkv, Dh], N <= S -> [N,
/// H, Dh].
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale) {
  const int64_t num_queries = q.size(0), num_keys = k.size(0), group = q.size(1) / k.size(1);
  const auto q_HNDh = q.transpose(0, 1);
  const auto k_HSDh = k.repeat_interleave(group, 1).transpose(0, 1);
  const auto v_HSDh = v.repeat_interleave(group, 1).transpose(0, 1);
  const auto visible = at::ones({num_queries, num_keys}, at::kBool).tril(num_keys - num_queries);
  const auto scores = at::matmul(q_HNDh, k_HSDh.transpose(1, 2)) * scale;
  const auto masked =
      scores.masked_fill(visible.logical_not(), -std::numeric_limits<double>::infinity());
  return at::matmul(at::softmax(masked, -1), v_HSDh).transpose(0, 1);
}

/// Sequence b's tokens of a paged cache. Shapes: cache [P, Hkv, Q, Dh] -> [S, Hkv, Dh].
at::Tensor gather_pages(const at::Tensor& cache, const PagedBatch& batch, int64_t b) {
  const int64_t page_size = cache.size(2), num_keys = batch.context_lengths[b];
  std::vector<at::Tensor> pages;
  for (int64_t block = 0; block * page_size < num_keys; ++block)
    pages.push_back(cache.select(0, batch.block_table[b * batch.max_blocks + block]));
  return at::cat(pages, 1).narrow(1, 0, num_keys).transpose(0, 1);
}

}  // namespace

at::Tensor causal_attention(const at::Tensor& q,
                            const at::Tensor& k,
                            const at::Tensor& v,
                            const PackedSequences& sequences,
                            double scale) {
  std::vector<at::Tensor> outputs;
  for (int64_t b = 0; b < sequences.count(); ++b) {
    const int64_t start = sequences.first_token(b), length = sequences.length(b);
    const auto seen = [&](const at::Tensor& x) {
      const at::Tensor own = x.narrow(0, start, length);
      const int64_t parent = sequences.parent(b);
      if (parent == PackedSequences::kNoParent) return own;
      return at::cat({x.narrow(0, sequences.first_token(parent), sequences.length(parent)), own},
                     0);
    };
    outputs.push_back(attend(q.narrow(0, start, length), seen(k), seen(v), scale));
  }
  return outputs.empty() ? at::zeros_like(q) : at::cat(outputs, 0);
}

at::Tensor paged_attention(const at::Tensor& q,
                           const at::Tensor& k_cache,
                           const at::Tensor& v_cache,
                           const PagedBatch& batch,
                           double scale) {
  std::vector<at::Tensor> outputs;
  for (int64_t b = 0; b < batch.sequences.count(); ++b)
    outputs.push_back(attend(q.narrow(0, batch.sequences.first_token(b), batch.sequences.length(b)),
                             gather_pages(k_cache, batch, b), gather_pages(v_cache, batch, b),
                             scale));
  return outputs.empty() ? at::zeros_like(q) : at::cat(outputs, 0);
}

}  // namespace lockstep::ops::reference
