// AdamW over a run of elements, and sums of squares.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free. Element types are float, or uint16_t for the bits of a bfloat16.
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

/// What a step reads and updates in place, element by element.
template <class W, class G>
struct AdamWRun {
  float* master;
  float* exp_avg;
  float* exp_avg_sq;
  /// Gets the new masters, rounded to its type; may be null.
  W* weight;
  const G* gradient;

  /// The same from element `first` on.
  AdamWRun from(int64_t first) const {
    return {master + first, exp_avg + first, exp_avg_sq + first,
            weight == nullptr ? nullptr : weight + first, gradient + first};
  }
};

/// One step over `count` elements of an AdamWRun.
template <class Run>
void adamw_step(const Run& run, int64_t count, const AdamWConstants& constants);

/// Sum of squares of `count` elements in float64.
template <class T>
double sum_of_squares(const T* values, int64_t count);

}  // namespace lockstep::ops::cpu
