// One token of the causal convolution, forward and backward, over a range of channels.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free. T is float, or uint16_t for the bits of a bfloat16. `taps` are W rows of inputs,
// oldest first, the last the token's own; weights are [W, stride] float32, one row a tap. Pointers
// are to the first channel of the range.
#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

/// Weights of a range of channels.
struct ConvTaps {
  const float* weight = nullptr;
  /// Floats from one tap's row to the next: all channels.
  int64_t stride = 0;
  /// W.
  int64_t width = 0;
  int64_t channels = 0;
};

/// out = silu(round(sum_j weight_j taps_j)).
template <class T>
void conv_row(const ConvTaps& conv, const T* const* taps, T* out);

/// dp = dout silu'(p), p the rounded sum of taps; and weight_gradient_j += dp taps_j (rows as
/// `conv.weight`'s; null: not wanted).
template <class T>
void conv_row_gradient(const ConvTaps& conv,
                       const T* const* taps,
                       const T* out_gradient,
                       float* sum_gradient,
                       float* weight_gradient);

/// dx = sum_j weight_j dp_j in order of j, dp_j the gradient of the sum in which the token is tap
/// j; null: outside.
template <class T>
void conv_input_gradient(const ConvTaps& conv, const float* const* sum_gradients, T* gradient);

}  // namespace lockstep::ops::cpu
