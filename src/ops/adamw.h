// The arithmetic of an optimizer step over one parameter.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep::ops {

struct AdamWSettings {
  double learning_rate = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  /// Multiplies the gradient first: the clip factor.
  double gradient_scale = 1;
  /// 1 for the first step: bias correction.
  int64_t step = 1;
};

/// One AdamW step in one pass: decoupled decay on `master`, moments, update, and the rounded copy
/// into `weight`.
///
/// Shapes: all of one shape and contiguous. master, exp_avg, exp_avg_sq float32; gradient float32
/// or bfloat16; weight is the model's tensor (float32 or bfloat16), or `master` itself when it is
/// float32. Numerics: torch.optim.AdamW's order: p *= 1 - lr wd; m, v; p -= lr / (1 - b1^t) m /
/// (sqrt(v) / sqrt(1 - b2^t) + eps). Source: Loshchilov & Hutter, arXiv:1711.05101;
/// torch/optim/adamw.py 2.11.
void adamw_step(const at::Tensor& weight,
                const at::Tensor& master,
                const at::Tensor& exp_avg,
                const at::Tensor& exp_avg_sq,
                const at::Tensor& gradient,
                const AdamWSettings& settings);

/// How many elements are summed before their sum is added to others'.
inline constexpr int64_t kSquaresBlock = 16 * 1024;

/// The sums of squares in float64 of a list's blocks of kSquaresBlock elements, of elements [first,
/// first + n), which are `values`: of each block that has one of them, one sum. Whatever piece of a
/// list is asked for, the sums of its whole blocks have the same bits.
std::vector<double> block_sums_of_squares(const at::Tensor& values, int64_t first);

/// Sum of squares in float64, over blocks of kSquaresBlock elements in order: the same bits for any
/// number of threads.
double sum_of_squares(const at::Tensor& gradient);

}  // namespace lockstep::ops
