// SPDX-License-Identifier: Apache-2.0
#include "ops/attention_tiles.h"

#include <algorithm>
#include <atomic>
#include <numeric>

#include "ops/kernel_data.h"
#include "tensor/aten.h"

namespace lockstep::ops {
namespace {

/// Tokens [begin, end) of one sequence.
struct Tile {
  size_t sequence;
  int64_t begin, end;
};

template <class T>
std::vector<Tile> cut_into_tiles(const std::vector<AttentionSequence<T>>& sequences,
                                 int64_t tile_tokens) {
  std::vector<Tile> tiles;
  for (size_t b = 0; b < sequences.size(); ++b)
    // The last tokens have the most keys: they go first, so that no thread is left with a long one at the end.
    for (int64_t end = sequences[b].num_tokens; end > 0;) {
      const int64_t begin = (end - 1) / tile_tokens * tile_tokens;
      tiles.push_back({b, begin, end});
      end = begin;
    }
  return tiles;
}

/// The tokens [begin, end) of a sequence at one key head.
template <class T>
cpu::QueryTile<T> query_tile(const AttentionTensors& tensors,
                             const AttentionSequence<T>& sequence,
                             int64_t kv_head,
                             const Tile& tile) {
  const int64_t heads = tensors.q.size(1), head_dim = tensors.q.size(2);
  const int64_t group = heads / tensors.num_kv_heads;
  const int64_t row = (sequence.first_token + tile.begin) * heads + kv_head * group;
  cpu::QueryTile<T> queries;
  queries.q = const_elements<T>(tensors.q) + row * head_dim;
  queries.output = elements<T>(tensors.output) + row * head_dim;
  if (tensors.log_sum_exp.defined())
    queries.log_sum_exp = elements<float>(tensors.log_sum_exp) + row;
  queries.token_stride = heads * head_dim;
  queries.heads_stride = heads;
  queries.num_tokens = tile.end - tile.begin;
  queries.group = group;
  queries.head_dim = head_dim;
  queries.first_position = sequence.first_position + tile.begin;
  queries.scale = static_cast<float>(tensors.scale);
  return queries;
}

template <class T>
cpu::TokenRows<T> at_head(cpu::TokenRows<T> rows, int64_t offset) {
  rows.data += offset;
  return rows;
}

/// Sequences from the longest to the shortest, so that no thread is left with a long one at the end.
template <class T>
std::vector<size_t> longest_first(const std::vector<AttentionSequence<T>>& sequences) {
  std::vector<size_t> order(sequences.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return sequences[a].num_tokens > sequences[b].num_tokens;
  });
  return order;
}

}  // namespace

void run_items(int64_t items,
               int64_t workspace_size,
               const std::function<void(int64_t item, float* workspace)>& work) {
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(items, at::get_num_threads());
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    const auto workspace = at::empty({workspace_size}, at::kFloat);
    float* memory = elements<float>(workspace);
    for (int64_t item = next++; item < items; item = next++) work(item, memory);
  });
}

template <class T>
void attend_sequences(const AttentionTensors& tensors,
                      const std::vector<AttentionSequence<T>>& sequences) {
  const int64_t kv_heads = tensors.num_kv_heads, head_dim = tensors.q.size(2);
  const int64_t group = tensors.q.size(1) / kv_heads, tokens = cpu::tile_tokens(group);
  const auto tiles = cut_into_tiles(sequences, tokens);
  const auto work = [&](int64_t item, float* workspace) {
    const Tile& tile = tiles[item / kv_heads];
    const int64_t kv_head = item % kv_heads;
    const AttentionSequence<T>& sequence = sequences[tile.sequence];
    cpu::attend(query_tile(tensors, sequence, kv_head, tile),
                at_head(sequence.keys, kv_head * head_dim),
                at_head(sequence.values, kv_head * head_dim), workspace);
  };
  run_items(static_cast<int64_t>(tiles.size()) * kv_heads,
            cpu::attend_workspace(tokens * group, head_dim), work);
}

template <class T>
void attend_sequences_backward(const AttentionTensors& tensors,
                               const std::vector<AttentionSequence<T>>& sequences,
                               const AttentionGradients& gradients) {
  if (sequences.empty()) return;
  const int64_t kv_heads = tensors.num_kv_heads, head_dim = tensors.q.size(2);
  const auto order = longest_first(sequences);
  const auto work = [&](int64_t item, float* workspace) {
    const size_t index = order[item / kv_heads];
    const AttentionSequence<T>& sequence = sequences[index];
    const int64_t kv_head = item % kv_heads;
    cpu::SequenceGradients<T> part;
    part.queries = query_tile(tensors, sequence, kv_head, {index, 0, sequence.num_tokens});
    part.keys = at_head(sequence.keys, kv_head * head_dim);
    part.values = at_head(sequence.values, kv_head * head_dim);
    const int64_t query_offset = part.queries.q - const_elements<T>(tensors.q);
    part.doutput = const_elements<T>(gradients.doutput) + query_offset;
    part.dq = elements<T>(gradients.dq) + query_offset;
    const int64_t key_offset = (sequence.first_token * kv_heads + kv_head) * head_dim;
    part.dk = elements<T>(gradients.dk) + key_offset;
    part.dv = elements<T>(gradients.dv) + key_offset;
    part.key_stride = kv_heads * head_dim;
    cpu::attend_backward(part, workspace);
  };
  const int64_t workspace = cpu::attend_backward_workspace(sequences[order[0]].num_tokens,
                                                           tensors.q.size(1) / kv_heads, head_dim);
  run_items(static_cast<int64_t>(sequences.size()) * kv_heads, workspace, work);
}

template void attend_sequences(const AttentionTensors&,
                               const std::vector<AttentionSequence<float>>&);
template void attend_sequences(const AttentionTensors&,
                               const std::vector<AttentionSequence<uint16_t>>&);
template void attend_sequences_backward(const AttentionTensors&,
                                        const std::vector<AttentionSequence<float>>&,
                                        const AttentionGradients&);
template void attend_sequences_backward(const AttentionTensors&,
                                        const std::vector<AttentionSequence<uint16_t>>&,
                                        const AttentionGradients&);

}  // namespace lockstep::ops
