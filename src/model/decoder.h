// The decoder: one definition for training, scoring and sampling, over packed tokens.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T packed tokens, D model dim, B sequences, V vocabulary (docs/shapes.md).
#pragma once

#include <functional>
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
};

/// About how many bytes the activations of a token take in one layer's forward, counting every
/// tensor that an op makes.
int64_t layer_token_bytes(const ModelConfig& config, int64_t element_size);

/// The positions of each sequence's tokens, [T] int64: 0, 1, …, or those that follow its parent's.
at::Tensor positions_of(const ops::PackedSequences& sequences);

/// The model's forward, a layer at a time, so that a trainer can walk the layers (forward,
/// recompute, backward).
///
/// Stateless over `weights` and the adapter that is added to them, if there is one; both must
/// outlive it. Gradients flow to the weights that require them. Throws: ShapeError. Threads: as the
/// weights.
class Decoder {
 public:
  explicit Decoder(const ModelWeights& weights, const Adapter* adapter = nullptr)
      : weights_(&weights), adapter_(adapter) {}

  int64_t num_layers() const { return static_cast<int64_t>(weights_->layers().size()); }
  /// Embedding rows: ids [T] -> [T, D].
  at::Tensor embed(const at::Tensor& ids) const;
  /// What all layers of a forward share.
  struct Shared {
    /// [T, R]
    at::Tensor rope;
  };
  Shared prepare(const ForwardBatch& batch) const;
  /// One layer: hidden [T, D] -> [T, D].
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
  const Adapter* adapter_;
};

}  // namespace lockstep::model
