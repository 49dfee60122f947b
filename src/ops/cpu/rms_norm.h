// The RMS norm's kernels: rows of float32 or bfloat16 (as uint16_t), forward and backward.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

/// What a norm reads. Row r starts at x + (r / inner) outer_stride + (r % inner) inner_stride.
template <class T>
struct RmsNormInputs {
  const T* x;
  int64_t inner, outer_stride, inner_stride;
  int64_t columns;
  const float* gain;  ///< [columns]: w, or 1 + w.
  float eps;
  bool round_before_gain;  ///< NormKind::kPlain.

  const T* row(int64_t r) const { return x + r / inner * outer_stride + r % inner * inner_stride; }
};

/// A half-open range of rows.
struct RowRange {
  int64_t begin, end;
};

/// y[r] = x[r] rstd gain for the rows of the range; y is contiguous.
void rms_norm_rows(const RmsNormInputs<float>& inputs, RowRange rows, float* y);
void rms_norm_rows(const RmsNormInputs<uint16_t>& inputs, RowRange rows, uint16_t* y);

/// dx[r] for the rows of the range, and their part of dgain, added row by row to `dgain` [columns].
/// dy and dx are contiguous; dx or dgain may be null.
void rms_norm_backward_rows(
    const RmsNormInputs<float>& inputs, RowRange rows, const float* dy, float* dx, float* dgain);
void rms_norm_backward_rows(const RmsNormInputs<uint16_t>& inputs,
                            RowRange rows,
                            const uint16_t* dy,
                            uint16_t* dx,
                            float* dgain);

/// sums[i] += the sum over b of partials[b, i], in order of b.
void add_partial_rows(const float* partials, int64_t count, int64_t columns, float* sums);

}  // namespace lockstep::ops::cpu
