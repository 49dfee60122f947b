// Products of our own with weights in panels (ops/cpu/panel_product.h): an output's bits depend on
// its row and its weights alone.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T rows, I inputs, O outputs.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep::ops {

/// The panels of a weight, in its dtype. Written to `reuse` where that has the right size, so that
/// addresses stay.
///
/// Shapes: weight [O, I] of any strides -> [num_panels(O) * panel_elements(I)]. Throws: ShapeError
/// for other dtypes than float32 and bfloat16.
at::Tensor pack_panels(const at::Tensor& weight, const at::Tensor& reuse = {});

/// The panels of W^T, from those of W [outputs, inputs].
at::Tensor transpose_panels(const at::Tensor& panels, int64_t outputs, int64_t inputs);

/// W [outputs, inputs], from its panels.
at::Tensor unpack_panels(const at::Tensor& panels, int64_t outputs, int64_t inputs);

/// Row `row` of W [outputs, inputs], from its panels, to the `to_row`th of a table [T, inputs].
void unpack_row(const at::Tensor& panels, int64_t row, const at::Tensor& table, int64_t to_row);

/// One product of several that run together: y = x W^T.
struct PanelOperands {
  /// [T, I] float32 or bfloat16, any strides; fast where one of them is 1. Beside bfloat16 panels
  /// all x are of one dtype.
  at::Tensor x;
  /// pack_panels of W [O, I].
  at::Tensor panels;
  /// [T, O] in the panels' dtype, float32, or beside float32 panels bfloat16; rows dense; written.
  at::Tensor y;
  /// y += x W^T: goes on from what y holds.
  bool adds = false;
  /// For sums over many inputs (tokens): chains of 256 inputs, added in order, round less than one
  /// long chain.
  bool adds_chains = false;
};

/// Runs products over all threads at once: many small ones (experts) cost one parallel region. All
/// y are of one dtype, and all panels. Numerics: float32 sums in the order of the inputs (in chains
/// of 256 with `adds_chains`), one rounding at the end; the bits do not depend on T, threads or
/// tiles.
void panel_products(const std::vector<PanelOperands>& products);

/// x W^T for one weight. Shapes: x [T, I] -> [T, outputs] in the panels' dtype.
at::Tensor panel_product(const at::Tensor& x, const at::Tensor& panels, int64_t outputs);

}  // namespace lockstep::ops
