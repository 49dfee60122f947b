// Rows of the gated RMS norm, forward and backward.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free. bfloat16 is passed as its bits (uint16_t).
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
void gated_rms_norm(const GatedRmsNormRows<float>& rows, float* out);
void gated_rms_norm(const GatedRmsNormRows<uint16_t>& rows, uint16_t* out);

template <class T>
struct GatedRmsNormGradients {
  /// Given.
  const T* out = nullptr;
  T* x = nullptr;
  T* z = nullptr;
  /// [dim], added to, row after row.
  float* weight = nullptr;
};

/// `scratch` has `dim` floats.
void gated_rms_norm_backward(const GatedRmsNormRows<float>& rows,
                             const GatedRmsNormGradients<float>& gradients,
                             float* scratch);
void gated_rms_norm_backward(const GatedRmsNormRows<uint16_t>& rows,
                             const GatedRmsNormGradients<uint16_t>& gradients,
                             float* scratch);

}  // namespace lockstep::ops::cpu
