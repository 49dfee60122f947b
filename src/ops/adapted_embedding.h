// Rows of an embedding, and what adapters add to them.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T tokens, N of them with this adapter, V vocabulary, D model dim, R rank.
#pragma once

#include <span>

#include <ATen/core/Tensor.h>

#include "ops/linear.h"

namespace lockstep::ops {

/// scale B A beside an embedding: the row of an id gets scale B A[:, id].
struct EmbeddingLowRank {
  /// [R, V] float32
  at::Tensor a;
  /// [D, R] float32; packed as LinearWeight::pack() says.
  LinearWeight b;
  double scale = 1;

  void pack() { b.pack(); }
};

/// An adapter's part in the rows.
struct EmbeddingTerm {
  const EmbeddingLowRank* pair = nullptr;
  /// [N] int64, ascending: the tokens that have it; undefined: all. Two terms have no token in
  /// common.
  at::Tensor rows;
};

/// The table's row of each token's id, plus scale B A[:, id] in each term's.
///
/// Shapes: ids [T] int64, rows [T, D], which with terms are written -> [T, D] in their dtype.
/// Numerics: as adapted_linear() with A[:, id] for A x. A row's bits depend on its id and its term
///   alone.
/// Gradients: for each A, summed over equal ids in the order of the tokens, and B; with terms none
///   for the rows, which those who train the table sum.
/// Throws: ShapeError.
/// Source: PEFT 0.21, Embedding in tuners/lora/layer.py, which drops nothing here.
at::Tensor adapted_embedding(const at::Tensor& ids,
                             const at::Tensor& rows,
                             std::span<const EmbeddingTerm> terms);

}  // namespace lockstep::ops
