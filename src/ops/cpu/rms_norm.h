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
  /// [columns]: w, or 1 + w.
  const float* gain;
  float eps;
  /// NormKind::kPlain.
  bool round_before_gain;

  const T* row(int64_t r) const { return x + r / inner * outer_stride + r % inner * inner_stride; }
};

/// A half-open range of rows.
struct RowRange {
  int64_t begin, end;
};

/// y[r] = x[r] rstd gain for the rows of the range; y is contiguous.
void rms_norm_rows(const RmsNormInputs<float>& inputs, RowRange rows, float* y);
void rms_norm_rows(const RmsNormInputs<uint16_t>& inputs, RowRange rows, uint16_t* y);

/// sum[r] = round(x[r] + residual[r]), and y[r] the norm of that; residual, sum and y are
/// contiguous.
void add_rms_norm_rows(
    const RmsNormInputs<float>& inputs, RowRange rows, const float* residual, float* sum, float* y);
void add_rms_norm_rows(const RmsNormInputs<uint16_t>& inputs,
                       RowRange rows,
                       const uint16_t* residual,
                       uint16_t* sum,
                       uint16_t* y);

/// What a norm's backward reads and writes; all contiguous.
template <class T>
struct RmsNormGradients {
  const T* dy;
  /// What else reached x; may be null.
  const T* dsum;
  /// May be null.
  T* dx;
  /// [columns], the rows' parts are added to it one by one; may be null.
  float* dgain;
};

/// The gradients of the rows of the range.
void rms_norm_backward_rows(const RmsNormInputs<float>& inputs,
                            RowRange rows,
                            const RmsNormGradients<float>& gradients);
void rms_norm_backward_rows(const RmsNormInputs<uint16_t>& inputs,
                            RowRange rows,
                            const RmsNormGradients<uint16_t>& gradients);

/// sums[i] += the sum over b of partials[b, i], in order of b.
void add_partial_rows(const float* partials, int64_t count, int64_t columns, float* sums);

}  // namespace lockstep::ops::cpu
