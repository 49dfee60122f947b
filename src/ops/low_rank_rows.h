// What products of rows with low-rank pairs have in common, whether there is one pair for all rows
// or one for each expert. Internal to ops/.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T rows of a table, N of them with the adapter, I inputs, O outputs, R rank, E matrices.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/low_rank.h"

namespace lockstep::ops {

/// The rows of a table that have an adapter, in runs that have the same A and B.
struct LowRankRows {
  struct Run {
    const LinearWeight* a = nullptr;
    const LinearWeight* b = nullptr;
    /// Its place in [E, R, I] and [E, O, R]; 0 where A and B are matrices.
    int64_t matrix = 0;
    /// Of the N rows.
    int64_t first = 0, count = 0;
  };
  std::vector<Run> runs;
  /// [N] int64, or undefined: the N rows are all of the table.
  at::Tensor rows;
  /// How A and B are stored, for the shapes of their gradients.
  at::Tensor a, b;
  double scale = 1;
  /// LowRank::name
  uint64_t name = 0;
  /// Where O lies in the columns of y.
  int64_t first_column = 0;
  /// Its keys are those of the table's rows.
  Dropout dropout;

  int64_t count(const at::Tensor& table) const {
    return rows.defined() ? rows.numel() : table.size(0);
  }
  int64_t rank() const { return a.size(-2); }
  int64_t outputs() const { return b.size(-2); }
};

/// Throws ShapeError "bad-dropout" unless its rate is one and each row of x has a key.
void check_dropout(const Dropout& dropout, const at::Tensor& x, const char* op);

/// Throws ShapeError "terms-meet" where two parts share columns and have the same rows, or one has
/// all. That lists of rows have none in common is for the caller to see to.
void check_apart(std::span<const LowRankRows> parts, const char* op);

/// scale A drop(x) of each part, [N, R] float32. Shapes: x [T, I].
std::vector<at::Tensor> low_products(const at::Tensor& x, std::span<const LowRankRows> parts);

/// y += B low, in place, for parts that are apart. Shapes: y [T, O'], low of each part [N, R]
/// float32.
void add_outputs(const at::Tensor& y,
                 const std::vector<at::Tensor>& low,
                 std::span<const LowRankRows> parts);

/// The part's rows and columns of y [T, O']: a view, or a copy where it has some of the rows.
at::Tensor rows_of_part(const at::Tensor& y, const LowRankRows& part);

/// y += scale B A drop(x), in place, for parts that are apart. Returns scale A drop(x) of each
/// part, [N, R] float32. Shapes: y [T, O'], x [T, I], of one dtype.
std::vector<at::Tensor> add_low_rank(const at::Tensor& y,
                                     const at::Tensor& x,
                                     std::span<const LowRankRows> parts);

/// d/d(A drop(x)) = scale dy B of each part, [N, R] float32.
std::vector<at::Tensor> low_gradients(const at::Tensor& dy, std::span<const LowRankRows> parts);

/// Adds to dx [T, I], in its dtype, what comes through the parts.
void add_input_gradients(const std::vector<at::Tensor>& dlow,
                         std::span<const LowRankRows> parts,
                         const at::Tensor& dx);

/// The gradients of a part's A and B, in their shapes.
struct PairGradients {
  at::Tensor a, b;
};
/// `low`: what add_low_rank() returned; empty: it is computed again.
std::vector<PairGradients> pair_gradients(const at::Tensor& dy,
                                          const at::Tensor& x,
                                          const std::vector<at::Tensor>& dlow,
                                          const std::vector<at::Tensor>& low,
                                          std::span<const LowRankRows> parts);

/// The gradients of A of each part.
std::vector<at::Tensor> a_gradients(const at::Tensor& x,
                                    const std::vector<at::Tensor>& dlow,
                                    std::span<const LowRankRows> parts);

/// Whether any input from `first` on needs a gradient; and puts those of the pairs there, A before
/// B.
bool any_of(const std::vector<bool>& needs, size_t first);
void put_pairs(const std::vector<PairGradients>& pairs,
               std::vector<at::Tensor>& gradients,
               size_t first);

}  // namespace lockstep::ops
