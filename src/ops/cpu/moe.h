// Rows of a mixture of experts: routing, combining, and the gradient of a routing weight.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free. bfloat16 is passed as its bits (uint16_t). E experts, K chosen experts, D model dim,
// F expert width.
#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

struct RouteShape {
  int64_t num_experts;
  int64_t num_chosen;
  bool renormalize;
};

/// The K largest of softmax(logits) in descending order, ties to the lower id, with their
/// (renormalised) weights. `scratch` holds E floats.
void route_row(
    const float* logits, const RouteShape& shape, float* scratch, float* weights, int64_t* experts);
void route_row(const uint16_t* logits,
               const RouteShape& shape,
               float* scratch,
               uint16_t* weights,
               int64_t* experts);

/// The gradient of a row of logits from that of its K weights. `scratch` holds E floats.
void route_backward_row(const float* logits,
                        const int64_t* experts,
                        const float* dweights,
                        const RouteShape& shape,
                        float* scratch,
                        float* dlogits);
void route_backward_row(const uint16_t* logits,
                        const int64_t* experts,
                        const uint16_t* dweights,
                        const RouteShape& shape,
                        float* scratch,
                        uint16_t* dlogits);

/// The K rows of one token, inside a table of rows [*, width].
template <class T>
struct ExpertRows {
  const T* table;
  const int64_t* rows;
  /// Null: all 1.
  const T* weights;
  int64_t num_chosen;
  int64_t width;
};

/// out = sum_k weights[k] table[rows[k]], in order of k in float32, rounded once.
void combine_rows(const ExpertRows<float>& token, float* out);
void combine_rows(const ExpertRows<uint16_t>& token, uint16_t* out);

/// Scales both rows by `weight` in place and returns their product before that, in float32.
float scale_and_dot(float* a, float* b, float weight, int64_t width);
float scale_and_dot(uint16_t* a, uint16_t* b, float weight, int64_t width);

}  // namespace lockstep::ops::cpu
