// Scans of a row of logits: largest, candidates, and sums of exponentials.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free.
#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

/// Largest of the logits; NaN if one of them is NaN.
float largest(const float* logits, int64_t count);

/// How logits become weights: e = exp((l - max) * inverse_temperature), 0 where e < floor.
struct WeightRule {
  float max;
  float inverse_temperature;
  float floor;
};

/// Writes e of each logit.
void weights(const float* logits, int64_t count, const WeightRule& rule, float* out);

/// Sum of e over `count` <= kMaxWeightRun logits, in float64.
double sum_of_weights(const float* logits, int64_t count, const WeightRule& rule);
inline constexpr int64_t kMaxWeightRun = 1024;

/// Appends index `first` + i for each logits[i] >= threshold to `out` in order; returns how many.
/// `out` has room for `count` and a vector more (kIndexSlack).
int64_t indices_at_least(
    const float* logits, int64_t count, float threshold, int64_t first, int32_t* out);
inline constexpr int64_t kIndexSlack = 64;

}  // namespace lockstep::ops::cpu
