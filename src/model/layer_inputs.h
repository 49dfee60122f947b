// What the layers read while tokens were sampled: under the same weights training reads the same
// bits, and needs no forward.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: N rows, D model dim, L layers (docs/shapes.md).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/config.h"

namespace lockstep::model {

/// Rows of hidden states, one a token: what each layer read (0 .. L - 1) and what the final norm
/// read (L).
///
/// Memory is taken as rows are written. Threads: write() from any thread to rows of its own; the
/// rest from one.
class LayerInputs {
 public:
  /// Room for `capacity` tokens, in the hidden states' dtype.
  LayerInputs(const ModelConfig& config, at::ScalarType dtype, int64_t capacity);
  /// Bytes that a token takes.
  static int64_t token_bytes(const ModelConfig& config, at::ScalarType dtype);

  /// Takes the next `tokens` rows; returns the first.
  int64_t reserve(int64_t tokens);
  /// Writes hidden [N, D], what `layer` read, to rows from `first` on.
  void write(int64_t layer, int64_t first, const at::Tensor& hidden);
  /// Rows of what `layer` read -> [N, D].
  at::Tensor gather(int64_t layer, std::span<const int64_t> rows) const;

 private:
  /// [L + 1] of [capacity, D].
  std::vector<at::Tensor> hidden_;
  int64_t taken_ = 0;
};

}  // namespace lockstep::model
