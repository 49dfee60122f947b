// The gated activations' kernels, one row at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

/// out[i] = round(silu(gate_up[i])) gate_up[width + i].
void silu_mul_row(const float* gate_up, int64_t width, float* out);
void silu_mul_row(const uint16_t* gate_up, int64_t width, uint16_t* out);

/// Gradients of both halves from dout, written to dgate_up [2 width].
void silu_mul_backward_row(const float* gate_up, const float* dout, int64_t width, float* dgate_up);
void silu_mul_backward_row(const uint16_t* gate_up,
                           const uint16_t* dout,
                           int64_t width,
                           uint16_t* dgate_up);

/// out[i] = x[i] round(sigmoid(gate[i])).
void sigmoid_mul_row(const float* x, const float* gate, int64_t width, float* out);
void sigmoid_mul_row(const uint16_t* x, const uint16_t* gate, int64_t width, uint16_t* out);

/// out[i] = x[i] round(sigmoid(*gate)): one gate for the row.
void scale_by_sigmoid_row(const float* x, const float* gate, int64_t width, float* out);
void scale_by_sigmoid_row(const uint16_t* x, const uint16_t* gate, int64_t width, uint16_t* out);

/// One row of sigmoid_mul's backward; dx or dgate may be null.
template <class T>
struct SigmoidMulBackwardRow {
  const T *x, *gate, *dout;
  T *dx, *dgate;
};
void sigmoid_mul_backward_row(const SigmoidMulBackwardRow<float>& row, int64_t width);
void sigmoid_mul_backward_row(const SigmoidMulBackwardRow<uint16_t>& row, int64_t width);

}  // namespace lockstep::ops::cpu
