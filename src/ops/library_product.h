// Products by oneDNN with a packed weight: used for bfloat16 where the processor multiplies it
// natively.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace lockstep::ops {

/// True where oneDNN and libtorch run bfloat16 products by instructions of the processor
/// (AVX512-BF16, AMX); elsewhere they convert, several times slower than our own panels.
bool has_native_bfloat16();

/// The weight in oneDNN's opaque form. Shapes: weight [O, I] bfloat16, contiguous.
at::Tensor pack_for_library(const at::Tensor& weight);

/// x W^T of a weight so packed; a single row is computed as two, since one row takes another path
/// with other bits, and fewer than 16 as a power of two. Shapes: x [T, I] -> [T, outputs].
at::Tensor library_product(const at::Tensor& x, const at::Tensor& packed, int64_t outputs);

/// Whether some rows of a bfloat16 product of this shape, 1 to 300 of them, have the bits that they
/// have among 512. Measured on first use and remembered: a property of a library on a processor,
/// not of mathematics. Threads: any.
bool library_rows_are_independent(int64_t inputs, int64_t outputs);

}  // namespace lockstep::ops
