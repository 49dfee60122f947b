// Rows of the gated RMS norm, forward and backward.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free. bfloat16 is passed as its bits (uint16_t).
#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

/// `num_rows` rows of `dim` elements, one behind the other.
template <class T>
struct GatedNormRows {
  const T* x = nullptr;
  const T* z = nullptr;
  /// [dim]
  const float* weight = nullptr;
  int64_t num_rows = 0, dim = 0;
  float eps = 0;
};

/// out = x rstd w silu(z).
void gated_norm(const GatedNormRows<float>& rows, float* out);
void gated_norm(const GatedNormRows<uint16_t>& rows, uint16_t* out);

template <class T>
struct GatedNormGradients {
  /// Given.
  const T* out = nullptr;
  T* x = nullptr;
  T* z = nullptr;
  /// [dim], added to, row after row.
  float* weight = nullptr;
};

/// `scratch` has `dim` floats.
void gated_norm_backward(const GatedNormRows<float>& rows,
                         const GatedNormGradients<float>& gradients,
                         float* scratch);
void gated_norm_backward(const GatedNormRows<uint16_t>& rows,
                         const GatedNormGradients<uint16_t>& gradients,
                         float* scratch);

}  // namespace lockstep::ops::cpu
