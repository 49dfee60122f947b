// The decoder: one definition for training, scoring and sampling, over packed tokens.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T packed tokens, D model dim, B sequences, V vocabulary (docs/shapes.md).
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "cache/cache_tensors.h"  // CacheTensors
#include "model/adapter.h"
#include "model/weights.h"
#include "ops/attention.h"  // PagedBatch
#include "ops/sequences.h"

namespace lockstep::model {

/// What the sampler adds to a forward: where its sequences' keys, values and states lie.
struct CachedBatch {
  /// Where new tokens go and which pages are read; `paged.sequences` are the forward's sequences.
  ops::PagedBatch paged;
  /// [B] state slots of the gated delta rule's layers.
  std::vector<int64_t> slots;
  cache::CacheTensors* tensors = nullptr;
};

/// The rows of a forward that an adapter is added to.
struct AdaptedRows {
  const Adapter* adapter = nullptr;
  /// [N] int64, ascending; undefined: all tokens.
  at::Tensor rows;
  /// With a key for each token of the forward; only while it is trained.
  ops::Dropout dropout;
};

/// Collects which tokens of a forward have which adapter.
class AdapterRows {
 public:
  /// The next `count` tokens have this adapter; null: none.
  void append(const Adapter* adapter, int64_t count);
  /// What has been appended, an adapter once.
  std::vector<AdaptedRows> take() const;

 private:
  struct Run {
    const Adapter* adapter;
    int64_t first, count;
  };
  std::vector<Run> runs_;
};

/// How often experts were chosen, and how likely they were, over all layers that have some.
struct RouterCounts {
  /// [E] float64 each: sums over tokens and layers, each token as often as it counts.
  at::Tensor chosen, probabilities;
  /// The sum of what the tokens count, once for each layer.
  double tokens = 0;
};

/// Which experts tokens have in each layer that has some, M of them.
struct ExpertChoices {
  /// [T, M, K] int32; a token whose first id is -1 has none.
  at::Tensor experts;
  /// [T, M, K] float32, their weights; undefined: nobody knows.
  at::Tensor weights;

  bool defined() const { return experts.defined(); }
  /// Those of tokens [first, first + count).
  ExpertChoices narrow(int64_t first, int64_t count) const;
  /// Room for what a forward over `tokens` tokens chooses.
  static ExpertChoices room(const ModelConfig& config, int64_t tokens, bool with_weights);
  /// Pieces one behind another; those that have none are so many tokens without experts. Undefined
  /// if no piece has some.
  static ExpertChoices join(const std::vector<std::pair<ExpertChoices, int64_t>>& pieces);
};

/// What a forward does with its routers besides letting them choose experts.
struct RouterWatch {
  /// [T] float32: as how many tokens each one counts, as the prompt of several samples does.
  at::Tensor token_weights;
  /// [E] float32: the term of the loss that goes backward with each layer (ops::RouterTerm);
  /// undefined: none.
  at::Tensor slopes;
  /// Where the routers' own choices are counted; null: nowhere.
  RouterCounts* counts = nullptr;
  /// The experts that tokens have instead of those that the routers choose; undefined: none.
  ExpertChoices replayed;
  /// [T, M] uint8, written with `replayed`: 1 where a router would have chosen other ones.
  at::Tensor changed;
  /// Where what the forward computes with is written; undefined: nowhere.
  ExpertChoices recorded;
};

/// The tokens of one forward.
struct ForwardBatch {
  /// [T] int64
  at::Tensor ids;
  /// [T] int64, the position of each token in its sequence.
  at::Tensor positions;
  ops::PackedSequences sequences;
  /// Null if every sequence starts here (training, scoring).
  const CachedBatch* cached = nullptr;
  /// Whether prompts and forwards without gradients use the chunked delta rule (--exact false).
  bool chunked_delta = false;
  /// No row is in two of them; one that is in none is computed by the model as it is. The adapters
  /// belong to the weights of the forward.
  std::vector<AdaptedRows> adapters;
  /// Null: routers choose experts, and that is all.
  std::shared_ptr<const RouterWatch> router;
};

/// The head with what adapters add to it, for hidden states whose rows `adapters` lists. The head
/// must outlive it.
ops::AdaptedHead adapted_head(const ops::VocabularyHead& head,
                              std::span<const AdaptedRows> adapters);

/// About how many bytes the activations of a token take in one layer's forward, counting every
/// tensor that an op makes.
int64_t layer_token_bytes(const ModelConfig& config, int64_t element_size);

/// The positions of each sequence's tokens, [T] int64: 0, 1, …, or those that follow its parent's.
at::Tensor positions_of(const ops::PackedSequences& sequences);

/// The model's forward, a layer at a time, so that a trainer can walk the layers (forward,
/// recompute, backward).
///
/// Stateless over `weights`, which must outlive it. Gradients flow to the weights and the parts of
/// adapters that require them. Throws: ShapeError. Threads: as the weights.
class Decoder {
 public:
  explicit Decoder(const ModelWeights& weights) : weights_(&weights) {}

  int64_t num_layers() const { return static_cast<int64_t>(weights_->layers().size()); }
  const ModelConfig& config() const { return weights_->config(); }
  /// Embedding rows, with what adapters add: [T, D]. Gradients as adapted_embedding()'s.
  at::Tensor embed(const ForwardBatch& batch) const;
  /// What all layers of a forward share.
  struct Shared {
    /// [T, R]
    at::Tensor rope;
  };
  Shared prepare(const ForwardBatch& batch) const;
  /// One layer: hidden [T, D] -> [T, D]. Without a token it is no more than a rank's part in
  /// experts that ranks share out, and `batch` and `shared` may be empty.
  at::Tensor layer(int64_t index,
                   const at::Tensor& hidden,
                   const ForwardBatch& batch,
                   const Shared& shared) const;
  /// The final norm: [T, D] -> [T, D], what the head reads.
  at::Tensor finish(const at::Tensor& hidden) const;
  /// Runs embed, all layers and finish. `read(i, hidden)` is called with what layer i is about to
  /// read, and with i = L for what the final norm is about to read.
  at::Tensor forward(const ForwardBatch& batch,
                     const std::function<void(int64_t, const at::Tensor&)>& read = {}) const;

 private:
  const ModelWeights* weights_;
};

/// Where ranks share out the experts of `weights`: computes with this one's for the forwards of the
/// others, until no rank makes one any more (ExpertRanks::begin_forward).
void join_forwards(const ModelWeights& weights);

}  // namespace lockstep::model
