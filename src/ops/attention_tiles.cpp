// SPDX-License-Identifier: Apache-2.0
#include "ops/attention_tiles.h"

#include <algorithm>
#include <atomic>
#include <numeric>

#include "ops/kernel_data.h"
#include "tensor/aten.h"
#include "tensor/parallel.h"

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
    // The last tokens have the most keys: they go first, so that no thread is left with a long one
    // at the end.
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

/// Sequences from the longest to the shortest, so that no thread is left with a long one at the
/// end.
template <class T>
std::vector<size_t> longest_first(const std::vector<AttentionSequence<T>>& sequences) {
  std::vector<size_t> order(sequences.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return sequences[a].num_tokens > sequences[b].num_tokens;
  });
  return order;
}

/// What each member of a family, a sequence and those that continue it, gives to the first one's
/// keys.
class CommonKeys {
 public:
  /// Shapes: like [T, Hkv, Dh].
  CommonKeys(const PackedSequences& packed, const at::Tensor& like)
      : packed_(packed), children_(packed.children()), first_rows_(children_.size()) {
    int64_t rows = 0;
    for (size_t b = 0; b < children_.size(); ++b) {
      first_rows_[b] = rows;
      rows += count(b);
    }
    const auto options = like.options().dtype(at::kFloat);
    dk = at::empty({rows, like.size(1), like.size(2)}, options);
    dv = at::empty_like(dk);
  }

  /// Keys of sequence b, from its first on, that others see too.
  int64_t count(size_t b) const {
    const auto sequence = static_cast<int64_t>(b);
    return children_[b].empty() ? packed_.history(sequence) : packed_.length(sequence);
  }
  float* rows(const at::Tensor& parts, size_t b) const {
    return elements<float>(parts) + first_rows_[b] * parts.stride(0);
  }
  /// Fills the rows of dk and dv that belong to first members.
  void add(const AttentionGradients& gradients) const {
    for (size_t b = 0; b < children_.size(); ++b) {
      if (children_[b].empty()) continue;
      const auto own = [&](const at::Tensor& x, size_t member) {
        return x.narrow(0, first_rows_[member], count(b));
      };
      const int64_t first = packed_.first_token(b);
      for (const auto& [parts, to] : {std::pair{dk, gradients.dk}, {dv, gradients.dv}}) {
        const at::Tensor sum = own(parts, b);
        for (const int64_t child : children_[b]) sum.add_(own(parts, static_cast<size_t>(child)));
        to.narrow(0, first, count(b)).copy_(sum);
      }
    }
  }

  /// [rows of all members, Hkv, Dh] float32
  at::Tensor dk, dv;

 private:
  const PackedSequences& packed_;
  std::vector<std::vector<int64_t>> children_;
  std::vector<int64_t> first_rows_;
};

}  // namespace

void run_items(int64_t items,
               int64_t workspace_size,
               const std::function<void(int64_t item, float* workspace)>& work) {
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(items, at::get_num_threads());
  parallel_for(0, threads, 1, [&](int64_t, int64_t) {
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
  const auto keys_at = [&](int64_t tile, int64_t kv_head) {
    const AttentionSequence<T>& sequence = sequences[tiles[tile].sequence];
    return cpu::NextKeys<T>{sequence.keys.at_head(kv_head),
                            sequence.first_position + tiles[tile].end};
  };
  const auto attend_head = [&](int64_t tile, int64_t kv_head, const cpu::NextKeys<T>& next,
                               float* workspace) {
    const AttentionSequence<T>& sequence = sequences[tiles[tile].sequence];
    cpu::attend(query_tile(tensors, sequence, kv_head, tiles[tile]), sequence.keys.at_head(kv_head),
                sequence.values.at_head(kv_head), next, workspace);
  };
  const int64_t num_tiles = std::ssize(tiles),
                size = cpu::attend_workspace(tokens * group, head_dim);
  if (num_tiles < 4 * at::get_num_threads()) {
    const auto work = [&](int64_t item, float* workspace) {
      attend_head(item / kv_heads, item % kv_heads, {}, workspace);
    };
    return run_items(num_tiles * kv_heads, size, work);
  }
  // Enough for all threads: one takes all heads of a tile, whose keys lie side by side.
  const auto work = [&](int64_t tile, float* workspace) {
    for (int64_t head = 0; head < kv_heads; ++head) {
      const bool is_last = head + 1 == kv_heads;
      const int64_t next = tile + is_last;
      attend_head(tile, head,
                  next < num_tiles ? keys_at(next, is_last ? 0 : head + 1) : cpu::NextKeys<T>(),
                  workspace);
    }
  };
  run_items(num_tiles, size, work);
}

template <class T>
void attend_sequences_backward(const AttentionTensors& tensors,
                               const std::vector<AttentionSequence<T>>& sequences,
                               const PackedSequences& packed,
                               const AttentionGradients& gradients) {
  if (sequences.empty()) return;
  const int64_t kv_heads = tensors.num_kv_heads, head_dim = tensors.q.size(2);
  const CommonKeys common(packed, gradients.dk);
  const auto order = longest_first(sequences);
  int64_t most_keys = 0;
  for (const auto& sequence : sequences)
    most_keys = std::max(most_keys, sequence.first_position + sequence.num_tokens);
  const auto work = [&](int64_t item, float* workspace) {
    const size_t index = order[item / kv_heads];
    const AttentionSequence<T>& sequence = sequences[index];
    const int64_t kv_head = item % kv_heads;
    cpu::SequenceGradients<T> part;
    part.queries = query_tile(tensors, sequence, kv_head, {index, 0, sequence.num_tokens});
    part.keys = sequence.keys.at_head(kv_head);
    part.values = sequence.values.at_head(kv_head);
    const int64_t query_offset = part.queries.q - const_elements<T>(tensors.q);
    part.doutput = const_elements<T>(gradients.doutput) + query_offset;
    part.dq = elements<T>(gradients.dq) + query_offset;
    const int64_t key_offset = (sequence.first_token * kv_heads + kv_head) * head_dim;
    part.dk = elements<T>(gradients.dk) + key_offset;
    part.dv = elements<T>(gradients.dv) + key_offset;
    part.key_stride = kv_heads * head_dim;
    part.common_keys = common.count(index);
    part.common_stride = part.key_stride;
    if (part.common_keys) {
      part.common_dk = common.rows(common.dk, index) + kv_head * head_dim;
      part.common_dv = common.rows(common.dv, index) + kv_head * head_dim;
    }
    cpu::attend_backward(part, workspace);
  };
  const int64_t workspace =
      cpu::attend_backward_workspace(most_keys, tensors.q.size(1) / kv_heads, head_dim);
  run_items(static_cast<int64_t>(sequences.size()) * kv_heads, workspace, work);
  common.add(gradients);
}

template void attend_sequences(const AttentionTensors&,
                               const std::vector<AttentionSequence<float>>&);
template void attend_sequences(const AttentionTensors&,
                               const std::vector<AttentionSequence<uint16_t>>&);
template void attend_sequences_backward(const AttentionTensors&,
                                        const std::vector<AttentionSequence<float>>&,
                                        const PackedSequences&,
                                        const AttentionGradients&);
template void attend_sequences_backward(const AttentionTensors&,
                                        const std::vector<AttentionSequence<uint16_t>>&,
                                        const PackedSequences&,
                                        const AttentionGradients&);

}  // namespace lockstep::ops
