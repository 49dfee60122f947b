// The RMS norm's kernels: rows, forward and backward.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free. T is float, or uint16_t for the bits of a bfloat16.
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
template <class T>
void rms_norm_rows(const RmsNormInputs<T>& inputs, RowRange rows, T* y);

/// sum[r] = round(x[r] + residual[r]), and y[r] the norm of that; residual, sum and y are
/// contiguous.
template <class T>
void add_rms_norm_rows(
    const RmsNormInputs<T>& inputs, RowRange rows, const T* residual, T* sum, T* y);

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
template <class T>
void rms_norm_backward_rows(const RmsNormInputs<T>& inputs,
                            RowRange rows,
                            const RmsNormGradients<T>& gradients);

/// sums[i] += the sum over b of partials[b, i], in order of b.
void add_partial_rows(const float* partials, int64_t count, int64_t columns, float* sums);

}  // namespace lockstep::ops::cpu
