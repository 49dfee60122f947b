// What layers gave when they were computed again, compared bit by bit with what they gave before.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T tokens, D model dim (docs/shapes.md).
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep::train {

/// What stands below layer 0.
inline constexpr int64_t kEmbedding = -1;

/// A layer that gave other bits.
struct LayerDifference {
  /// Of the decoder, or kEmbedding.
  int64_t layer = 0;
  /// Tokens with a bit that differs.
  int64_t tokens = 0;
  /// The largest difference of an element; infinite where one of the two is no number.
  double largest = 0;
  /// It differs from what sampling read. False: from the forward of the same step.
  bool is_sampler = false;
};

/// Collects comparisons over micro-batches. Not thread-safe.
class LayerComparison {
 public:
  /// Compares what `layer` gave now with what it gave before. `is_sampler`: that was sampling, not
  /// training. Shapes: [T, D] each, contiguous, of one dtype.
  void add(int64_t layer, const at::Tensor& now, const at::Tensor& before, bool is_sampler);

  /// Comparisons that were made, one a layer and micro-batch; 0: nothing is known.
  int64_t compared() const { return compared_; }
  bool is_exact() const { return different_.empty(); }
  /// Layers with a difference, from the lowest on.
  std::vector<LayerDifference> different() const;
  /// The largest difference of all; 0 where there is none.
  double largest() const;

 private:
  int64_t compared_ = 0;
  std::map<int64_t, LayerDifference> different_;
};

/// |a - b|: 0 where the bits are equal, infinite where one of the two is no number.
double difference_of(float a, float b);

}  // namespace lockstep::train
