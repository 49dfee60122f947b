// AdamW over a run of elements, and sums of squares.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free. bfloat16 is passed as its bits (uint16_t).
#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

/// The constants of a step, ready for the elements.
struct AdamWConstants {
  /// 1 - learning rate * weight decay.
  float decay;
  /// learning rate / (1 - beta1^step).
  float step_size;
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  /// 1 / sqrt(1 - beta2^step).
  float inverse_root_correction2;
  float eps;
  float gradient_scale;
};

/// The float32 arrays that a step updates in place.
struct AdamWState {
  float* master;
  float* exp_avg;
  float* exp_avg_sq;
};

/// One step over `count` elements; `weight` gets the new masters, rounded, unless it is null.
void adamw_step(
    AdamWState state, float* weight, const float* gradient, int64_t count, const AdamWConstants& c);
void adamw_step(AdamWState state,
                float* weight,
                const uint16_t* gradient,
                int64_t count,
                const AdamWConstants& c);
void adamw_step(AdamWState state,
                uint16_t* weight,
                const float* gradient,
                int64_t count,
                const AdamWConstants& c);
void adamw_step(AdamWState state,
                uint16_t* weight,
                const uint16_t* gradient,
                int64_t count,
                const AdamWConstants& c);

/// Sum of squares of `count` elements in float64.
double sum_of_squares(const float* values, int64_t count);
double sum_of_squares(const uint16_t* values, int64_t count);

}  // namespace lockstep::ops::cpu
