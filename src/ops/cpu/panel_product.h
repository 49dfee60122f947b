// x W^T with W in panels: every output is one chain of fused multiply-adds over the inputs, in
// their order.
// SPDX-License-Identifier: Apache-2.0
//
// Raw pointers, no libtorch. The chain fixes the bits of an output whatever the number of rows, the
// tile that computes it, the thread count and the vector width are: a library's product promises
// none of this. (On a processor without fused multiply-add each step of the chain rounds twice.)
//
// Shapes: T rows, I inputs, O outputs.
#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

/// Outputs of a panel. Fixed: the panels' layout does not depend on the processor.
inline constexpr int64_t kPanelOutputs = 16;

/// Panels of a weight of `outputs` rows; the last one is filled up with zeros.
constexpr int64_t num_panels(int64_t outputs) {
  return (outputs + kPanelOutputs - 1) / kPanelOutputs;
}
/// Elements of a panel: float32 [I][16]; bfloat16 [I / 2 rounded up][16][2], pairs of inputs side
/// by side.
constexpr int64_t panel_elements(int64_t inputs, const float*) { return inputs * kPanelOutputs; }
constexpr int64_t panel_elements(int64_t inputs, const uint16_t*) {
  return (inputs + 1) / 2 * 2 * kPanelOutputs;
}

/// Where a weight's elements lie: W[o][i] at data[o * output_stride + i * input_stride].
template <class T>
struct WeightView {
  const T* data;
  int64_t outputs, inputs;
  int64_t output_stride, input_stride;
};

/// Writes one panel of a weight to `to`.
void pack_panel(const WeightView<float>& weight, int64_t panel, float* to);
void pack_panel(const WeightView<uint16_t>& weight, int64_t panel, uint16_t* to);

/// Writes inputs [first, last) of all panels to `panels`: reads line by line a weight whose outputs
/// lie side by side (output_stride 1), as the transposed operands of a backward pass do. `first` is
/// even, `last` too or the end.
void pack_lines(const WeightView<float>& weight, int64_t first, int64_t last, float* panels);
void pack_lines(const WeightView<uint16_t>& weight, int64_t first, int64_t last, uint16_t* panels);

/// Writes panel `panel` of the transposed weight to `to`, from the weight's own panels.
void transpose_panels(
    const float* panels, int64_t outputs, int64_t inputs, int64_t panel, float* to);
void transpose_panels(
    const uint16_t* panels, int64_t outputs, int64_t inputs, int64_t panel, uint16_t* to);

/// Writes a row of a weight [*, inputs] to `to`, from its panels.
void unpack_row(const float* panels, int64_t inputs, int64_t row, float* to);
void unpack_row(const uint16_t* panels, int64_t inputs, int64_t row, uint16_t* to);

/// The rows of an x that is given transposed: to[r * inputs + i] = from[i * stride + r].
void transpose_to_rows(
    const uint16_t* from, int64_t stride, int64_t rows, int64_t inputs, float* to);
/// Pairs of the elements of two lines of `count`; of one line and zeros where `odd` is null.
void interleave_lines(const uint16_t* even, const uint16_t* odd, int64_t count, uint16_t* to);

/// Some rows of x times a packed weight. `T` is the panels' type, `Y` the result's, which is T,
/// float, or beside float panels bfloat16, `X` that of x: float, or uint16_t for bfloat16 where
/// has_pair_products().
template <class T, class Y = T, class X = float>
struct PanelProduct {
  /// [rows, I] of rows x_stride apart; or transposed: of float32 [I, rows] of inputs x_stride
  /// apart, of bfloat16 [I / 2 rounded up, x_stride, 2]. At least one input.
  const X* x;
  int64_t x_stride;
  bool is_transposed;
  int64_t rows, inputs, outputs;
  const T* panels;
  /// [rows, O]
  Y* y;
  int64_t y_stride;
  /// Starts at what y holds, not at 0.
  bool adds = false;
  /// One chain for each kChainInputs inputs, and their sums added in order: over many inputs it
  /// rounds less.
  bool adds_chains = false;
};

/// Inputs of a block: of whole chains, if `adds_chains`.
inline constexpr int64_t kChainInputs = 256;
/// Rows that one call of panel_product should get at most: their slice of x stays in the cache
/// while panels pass.
inline constexpr int64_t kPanelProductRows = 96;

/// Panels that are multiplied at once with so many rows, on the target that takes most: a call
/// should get a multiple of it.
constexpr int64_t panels_of_tile(int64_t rows) { return rows < 4 ? 6 : 4; }

/// Computes the outputs of panels [first, last) for all rows. Threads: safe for disjoint panels or
/// rows. Numerics: y = fma(x_I-1, w_I-1, … fma(x_0, w_0, 0)) in float32 unless `adds_chains`; a
/// bfloat16 y is rounded once at the end.
void panel_product(const PanelProduct<float>& product, int64_t first, int64_t last);
void panel_product(const PanelProduct<uint16_t>& product, int64_t first, int64_t last);
void panel_product(const PanelProduct<uint16_t, float>& product, int64_t first, int64_t last);
void panel_product(const PanelProduct<float, uint16_t>& product, int64_t first, int64_t last);

/// Whether the processor, with the vector target in use, multiplies pairs of bfloat16 numbers by an
/// instruction (AVX512-BF16): twice as fast as float32.
bool has_pair_products();
/// The same for an x in bfloat16, where has_pair_products(). Numerics: for each pair of inputs two
/// fused steps, the odd input first; denormal numbers count as zero.
void panel_product(const PanelProduct<uint16_t, uint16_t, uint16_t>& product,
                   int64_t first,
                   int64_t last);
void panel_product(const PanelProduct<uint16_t, float, uint16_t>& product,
                   int64_t first,
                   int64_t last);

}  // namespace lockstep::ops::cpu
