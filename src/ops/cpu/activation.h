// The gated activations' kernels, one row at a time.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free. T is float, or uint16_t for the bits of a bfloat16. All pointers are to `width`
// adjacent elements, gate_up and dgate_up to twice as many: the gates, then what they multiply.
#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

/// out[i] = round(silu(gate_up[i])) gate_up[width + i].
template <class T>
void silu_mul_row(const T* gate_up, int64_t width, T* out);

/// Gradients of both halves from dout, written to dgate_up.
template <class T>
void silu_mul_backward_row(const T* gate_up, const T* dout, int64_t width, T* dgate_up);

/// out[i] = x[i] round(sigmoid(gate[i])).
template <class T>
void sigmoid_mul_row(const T* x, const T* gate, int64_t width, T* out);

/// out[i] = x[i] round(sigmoid(*gate)): one gate for the row.
template <class T>
void scale_by_sigmoid_row(const T* x, const T* gate, int64_t width, T* out);

/// One row of sigmoid_mul's backward; dx or dgate may be null.
template <class T>
struct SigmoidMulBackwardRow {
  const T *x, *gate, *dout;
  T *dx, *dgate;
};
template <class T>
void sigmoid_mul_backward_row(const SigmoidMulBackwardRow<T>& row, int64_t width);

}  // namespace lockstep::ops::cpu
