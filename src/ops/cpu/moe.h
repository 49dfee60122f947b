// Rows of a mixture of experts: routing, combining, and the gradient of a routing weight.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free. T is float, or uint16_t for the bits of a bfloat16. E experts, K chosen experts, D
// model dim, F expert width.
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
template <class T>
void route_row(
    const T* logits, const RouteShape& shape, float* scratch, T* weights, int64_t* experts);

/// The (renormalised) weights of K experts that are given. `scratch` holds E floats.
template <class T>
void weigh_row(
    const T* logits, const int64_t* experts, const RouteShape& shape, float* scratch, T* weights);

/// The gradient of a row of logits from that of its K weights. `scratch` holds E floats.
template <class T>
void route_backward_row(const T* logits,
                        const int64_t* experts,
                        const T* dweights,
                        const RouteShape& shape,
                        float* scratch,
                        T* dlogits);

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
template <class T>
void combine_rows(const ExpertRows<T>& token, T* out);

/// Scales both rows by `weight` in place and returns their product before that, in float32.
template <class T>
float scale_and_dot(T* a, T* b, float weight, int64_t width);

}  // namespace lockstep::ops::cpu
