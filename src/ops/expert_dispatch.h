// Which rows of a table the tokens of a mixture of experts have. Internal to ops/.
// SPDX-License-Identifier: Apache-2.0
//
// One permutation sorts the (token, choice) pairs by expert: each expert's pairs are a segment of a
// table of rows, in order of tokens.
//
// Shapes: T tokens, D model dim, E experts, K chosen experts, R = T K rows of the table.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep::ops {

/// One expert's rows of a table.
struct ExpertSegment {
  int64_t expert = 0;
  int64_t first = 0;
  int64_t count = 0;
};

/// Where each pair of a token and a chosen expert lies in the table.
struct ExpertDispatch {
  /// The segments of those experts that have tokens, in the order of their ids.
  std::vector<ExpertSegment> segments;
  std::vector<int64_t> row_of_pair;
  std::vector<int64_t> token_of_row;
  int64_t num_chosen = 0;
  int64_t num_rows() const { return static_cast<int64_t>(token_of_row.size()); }

  /// Shapes: experts [T, K] int64, contiguous. Throws ShapeError "bad-expert".
  ExpertDispatch(const at::Tensor& experts, int64_t num_experts);
  /// The table of each row's token. Shapes: x [T, D], contiguous -> [R, D].
  at::Tensor gather(const at::Tensor& x) const;
  /// Each token's sum over its rows of the table. `weights` [T, K], or undefined: all 1.
  /// Shapes: table [R, D] -> [T, D].
  at::Tensor combine(const at::Tensor& table, const at::Tensor& weights) const;
  /// Each row's weight. Shapes: weights [T, K] -> [R] float32.
  at::Tensor weights_of_rows(const at::Tensor& weights) const;
  /// The other way round: what rows have, by pair. Shapes: [R] -> [T, K], float32.
  at::Tensor by_pair(const at::Tensor& of_rows) const;
};

/// Items that a thread takes at once, each of `width` elements.
int64_t expert_row_grain(int64_t width);

}  // namespace lockstep::ops
