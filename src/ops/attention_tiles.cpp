// SPDX-License-Identifier: Apache-2.0
#include "ops/attention_tiles.h"

#include <algorithm>
#include <atomic>

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
  const int64_t heads = tensors.q.size(1), head_dim = tensors.q.size(2);
  const int64_t group = heads / tensors.num_kv_heads;
  const int64_t tile_tokens = std::max<int64_t>(1, cpu::kTileRows / group);
  const auto tiles = cut_into_tiles(sequences, tile_tokens);
  const T* q = const_elements<T>(tensors.q);
  T* output = elements<T>(tensors.output);
  float* log_sum_exp = elements<float>(tensors.log_sum_exp);
  run_items(static_cast<int64_t>(tiles.size()) * tensors.num_kv_heads,
            cpu::attend_workspace(tile_tokens * group, head_dim),
            [&](int64_t item, float* workspace) {
              const Tile& tile = tiles[item / tensors.num_kv_heads];
              const int64_t kv_head = item % tensors.num_kv_heads;
              const AttentionSequence<T>& sequence = sequences[tile.sequence];
              const int64_t row = (sequence.first_token + tile.begin) * heads + kv_head * group;
              cpu::QueryTile<T> queries;
              queries.q = q + row * head_dim;
              queries.output = output + row * head_dim;
              queries.log_sum_exp = log_sum_exp == nullptr ? nullptr : log_sum_exp + row;
              queries.token_stride = heads * head_dim;
              queries.heads_stride = heads;
              queries.num_tokens = tile.end - tile.begin;
              queries.group = group;
              queries.head_dim = head_dim;
              queries.first_position = sequence.first_position + tile.begin;
              queries.scale = static_cast<float>(tensors.scale);
              auto keys = sequence.keys, values = sequence.values;
              keys.data += kv_head * head_dim;
              values.data += kv_head * head_dim;
              cpu::attend(queries, keys, values, workspace);
            });
}

template void attend_sequences(const AttentionTensors&,
                               const std::vector<AttentionSequence<float>>&);
template void attend_sequences(const AttentionTensors&,
                               const std::vector<AttentionSequence<uint16_t>>&);

}  // namespace lockstep::ops
