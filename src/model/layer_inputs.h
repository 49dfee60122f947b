// What the layers read while tokens were sampled. Under the same weights training reads the same
// bits, so that it needs no forward.
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

/// Rows of hidden states, one for each token: what each layer read (0 .. L - 1) and what the final
/// norm read (L).
///
/// Memory is used as rows are written. Threads: write() from any thread to rows of its own; all
/// else from one.
class LayerInputs {
 public:
  /// Room for `capacity` tokens, in the hidden states' dtype.
  LayerInputs(const ModelConfig& config, at::ScalarType dtype, int64_t capacity);
  /// How many bytes a token takes.
  static int64_t token_bytes(const ModelConfig& config, at::ScalarType dtype);

  /// Reserves the next `tokens` rows; returns the first of them.
  int64_t reserve(int64_t tokens);
  /// Writes hidden [N, D], what `layer` read, to the N rows that begin with `first`.
  void write(int64_t layer, int64_t first, const at::Tensor& hidden);
  /// What `layer` read for some rows -> [N, D].
  at::Tensor gather(int64_t layer, std::span<const int64_t> rows) const;

 private:
  /// L + 1 tensors [capacity, D].
  std::vector<at::Tensor> hidden_;
  int64_t taken_ = 0;
};

}  // namespace lockstep::model
