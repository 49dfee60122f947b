// Products by oneDNN with a packed weight: used for bfloat16 where the processor has a unit for
// products of whole tiles (AMX), many times as fast as its vectors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace lockstep::ops {

/// True where oneDNN and libtorch run bfloat16 products on AMX; elsewhere our own panels are at
/// least as fast.
bool has_bfloat16_tiles();

/// The weight in oneDNN's opaque form. Shapes: weight [O, I] bfloat16, contiguous.
at::Tensor pack_for_library(const at::Tensor& weight);

/// Most rows that oneDNN gets at once; as many as a micro-batch usually has.
inline constexpr int64_t kLibraryRows = 4096;

/// x W^T of a weight so packed; a single row is computed as two, since one row takes another path
/// with other bits, fewer than 16 as a power of two, and more than kLibraryRows in pieces, so that
/// no number of rows is used that a probe does not cover. Shapes: x [T, I] -> [T, outputs].
at::Tensor library_product(const at::Tensor& x, const at::Tensor& packed, int64_t outputs);

/// Whether the rows of a bfloat16 product of this shape have the same bits whether they are 1 or
/// kLibraryRows, and whether all threads or one inside a parallel region compute them
/// (ops/row_independence.h). Measured on first use with a number of threads and remembered: a
/// property of a library on a processor, not of mathematics. Threads: any.
bool library_rows_are_independent(int64_t inputs, int64_t outputs);

}  // namespace lockstep::ops
