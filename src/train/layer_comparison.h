// Compares what layers gave when they were computed again with what they gave before, bit by bit.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T tokens, D model dim (docs/shapes.md).
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include <ATen/core/Tensor.h>

#include "parallel/group.h"

namespace lockstep::train {

/// The number of the embedding, which stands below layer 0.
inline constexpr int64_t kEmbedding = -1;

/// A layer that gave other bits.
struct LayerDifference {
  /// The number of the layer in the decoder, or kEmbedding.
  int64_t layer = 0;
  /// How many tokens have a bit that differs.
  int64_t tokens = 0;
  /// The largest difference of an element; infinite if one of the two values is not a number.
  double largest = 0;
  /// Whether it differs from what sampling read, rather than from the forward of the same step.
  bool is_sampler = false;
};

/// Collects comparisons over micro-batches. Not thread-safe.
class LayerComparison {
 public:
  /// Compares what `layer` gave now with what it gave before: while sampling if `is_sampler`, else
  /// in training. Shapes: [T, D] each, contiguous, of one dtype.
  void add(int64_t layer, const at::Tensor& now, const at::Tensor& before, bool is_sampler);

  /// Takes in the comparisons of all ranks.
  void gather(parallel::Group& ranks);

  /// How many comparisons were made, one for each layer and micro-batch; with 0 nothing is known.
  int64_t compared() const { return compared_; }
  bool is_exact() const { return different_.empty(); }
  /// The layers with a difference, the lowest first.
  std::vector<LayerDifference> different() const;
  /// The largest difference of all; 0 if there is none.
  double largest() const;

 private:
  int64_t compared_ = 0;
  std::map<int64_t, LayerDifference> different_;
};

/// |a - b|; 0 if the bits are equal, infinite if one of the two is not a number.
double difference_of(float a, float b);

}  // namespace lockstep::train
