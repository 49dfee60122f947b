// Rows of the gated RMS norm, forward and backward.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free. T is float, or uint16_t for the bits of a bfloat16.
#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

/// `num_rows` rows of `dim` elements, one behind the other.
template <class T>
struct GatedRmsNormRows {
  const T* x = nullptr;
  const T* z = nullptr;
  /// [dim]
  const float* weight = nullptr;
  int64_t num_rows = 0, dim = 0;
  float eps = 0;
};

/// out = x rstd w silu(z).
template <class T>
void gated_rms_norm(const GatedRmsNormRows<T>& rows, T* out);

/// Gradients of the same rows, one behind the other.
template <class T>
struct GatedRmsNormGradients {
  /// The gradient of the result, which is given; the others are written.
  const T* out = nullptr;
  T* x = nullptr;
  T* z = nullptr;
  /// [dim], added to, row after row.
  float* weight = nullptr;
};

/// The gradients of all rows. `scratch` has `dim` floats.
template <class T>
void gated_rms_norm_backward(const GatedRmsNormRows<T>& rows,
                             const GatedRmsNormGradients<T>& gradients,
                             float* scratch);

}  // namespace lockstep::ops::cpu
