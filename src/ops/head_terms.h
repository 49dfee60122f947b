// What adapters add to a head's logits, by its blocks of the vocabulary and chunks of rows.
// Internal to ops/.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T rows, N of them with this adapter, D model dim, V vocabulary, R rank.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/low_rank_rows.h"
#include "ops/token_logprob.h"

namespace lockstep::ops {

/// The terms of a head beside all rows, whose A is multiplied once.
class HeadTerms {
 public:
  /// Rows [first, first + count) of a term that lie in a chunk, and where in it: [count] int64;
  /// undefined: they are all of the chunk.
  struct Slice {
    size_t term = 0;
    int64_t first = 0, count = 0;
    at::Tensor rows;
  };

  /// Throws ShapeError "bad-shape", "bad-dropout", "terms-meet".
  HeadTerms(const at::Tensor& hidden, const AdaptedHead& head, const char* op);

  bool empty() const { return parts_.empty(); }
  /// What lies in rows [first_row, first_row + rows).
  std::vector<Slice> slices(int64_t first_row, int64_t rows) const;
  /// logits += scale B A drop(h) of a block, in place. Shapes: logits [rows of the chunk, columns
  /// of the block].
  void add(const at::Tensor& logits, const std::vector<Slice>& slices, size_t block) const;

 private:
  friend class HeadTermGradients;
  LowRankRows part_of(const Slice& slice, size_t block) const;

  std::vector<const HeadLowRank*> pairs_;
  /// With the whole of A and B.
  std::vector<LowRankRows> parts_;
  /// scale A drop(h), [N, R] float32.
  std::vector<at::Tensor> low_;
};

/// Sums the gradients that come through the terms, block by block.
class HeadTermGradients {
 public:
  explicit HeadTermGradients(const HeadTerms& terms);

  /// Blocks come one after another, and chunks in each.
  void begin_block(size_t block);
  /// Shapes: dlogits [rows of the chunk, columns of the block], in the hidden states' dtype.
  void add(const at::Tensor& dlogits, const std::vector<HeadTerms::Slice>& slices);
  /// Adds to dhidden [T, D] float32, unless that is undefined; returns the gradients of each term's
  /// A and B.
  std::vector<PairGradients> finish(const at::Tensor& hidden, const at::Tensor& dhidden);

 private:
  const HeadTerms& terms_;
  size_t block_ = 0;
  /// B of the block, of each term.
  std::vector<BackwardOperand> operands_;
  /// [N, R] and [V, R] float32.
  std::vector<at::Tensor> dlow_, db_;
};

}  // namespace lockstep::ops
