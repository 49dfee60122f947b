// Root-mean-square norms. Three kinds, which differ in gain and rounding.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: rows of D elements; leading dimensions are free.
#pragma once

#include <ATen/core/Tensor.h>

namespace lockstep::ops {

enum class NormKind : int {
  /// n = round(x rstd), y = round(w n): Qwen3, two roundings.
  kPlain,
  /// y = round(x rstd (1 + w)), w around zero: Qwen3.5, one rounding.
  kOnePlus,
};

/// RMS norm over the last dimension: rstd = (mean(x^2) + eps)^-1/2.
///
/// Shapes: x [..., D]; weight [D], float32 or bfloat16. Result: x's shape and dtype.
/// Numerics: float32 inside; a row's bits depend on that row alone.
/// Gradients (dn is the gradient of n = x rstd): dx = rstd (dn - n mean(dn n)); dw = sum dy n,
/// float32. Source: transformers 5.23 Qwen3RMSNorm, Qwen3_5RMSNorm.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, NormKind kind);

/// A residual connection and the norm behind it, in one pass.
struct NormedSum {
  /// round(x + residual)
  at::Tensor sum;
  /// rms_norm of `sum`.
  at::Tensor normed;
};

/// The bits of x + residual and of rms_norm of it. Shapes: x, residual [..., D] of one dtype;
/// weight [D]. Gradients: of x and residual the same, dsum + the norm's dx, rounded once.
NormedSum add_rms_norm(const at::Tensor& x,
                       const at::Tensor& residual,
                       const at::Tensor& weight,
                       double eps,
                       NormKind kind);

/// RMS norm gated by silu: y = x rstd w silu(z), norm before gate; float32 inside, one rounding.
///
/// Shapes: x, z [..., D]; weight [D] (plain gain, float32 or the model's dtype). Result: z's dtype.
/// Gradients, with n = x rstd, s = silu(z) and g = sigmoid(z): dz = dy n w g (1 + z (1 - g));
/// dw = sum dy n s; dn = dy w s, and dx as in rms_norm.
/// Source: transformers 5.23 Qwen3_5RMSNormGated; flash-linear-attention's fused_norm_gate.
at::Tensor gated_rms_norm(const at::Tensor& x,
                          const at::Tensor& z,
                          const at::Tensor& weight,
                          double eps);

}  // namespace lockstep::ops
