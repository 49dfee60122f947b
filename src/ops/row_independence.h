// Does a row of a product depend on how many rows are computed with it, and by how many threads?
// Exactness rests on "no".
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep::ops {

/// A number of rows and who computes them.
struct RowCase {
  int64_t rows = 0;
  /// One thread inside a parallel region, as a sampler's part is computed; else all threads, as a
  /// trainer's micro-batch is.
  bool is_in_region = false;

  bool operator==(const RowCase&) const = default;
};

/// The cases in which some rows differ in a bit from the same rows among `all_rows`, which all
/// threads compute. Tried are numbers of rows from 1 to `all_rows`, both at the beginning and at
/// the end of the rows, by all threads and inside a region.
///
/// `product(first, rows)` computes these rows alone and is called from several threads at once. All
/// of it costs about as much as six products of `all_rows` rows.
std::vector<RowCase> dependent_rows(
    int64_t all_rows, const std::function<at::Tensor(int64_t first, int64_t rows)>& product);

}  // namespace lockstep::ops
