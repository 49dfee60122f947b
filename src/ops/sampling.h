// Drawing a token from a row of logits. Plain host memory: no libtorch in this header.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace lockstep::ops {

/// How a distribution is narrowed before a token is drawn. The order is the field's: repetition
/// penalty, temperature, top-k, top-p, min-p (transformers' logits processors).
struct SamplingParameters {
  /// Divides the logits; 0 is greedy, all others lie in Range::logit_factor().
  double temperature = 1.0;
  /// Keep the k most likely tokens; <= 0: all.
  int64_t top_k = -1;
  /// Keep the smallest set with at least this probability; 1: all.
  double top_p = 1.0;
  /// Drop tokens below min_p times the largest probability; 0: none.
  double min_p = 0.0;
  /// Divides positive logits of tokens already seen, multiplies negative ones; 1: off. In
  /// Range::logit_factor().
  double repetition_penalty = 1.0;
  /// Taken from the logits of ids that were generated so far: once, and as often as they were.
  double presence_penalty = 0, frequency_penalty = 0;
  /// Added to the logits of these ids.
  std::vector<std::pair<int64_t, float>> logit_bias;
};

/// Draws one token id by inverting the cumulative distribution in order of ids at `uniform` in [0,
/// 1).
///
/// `logits` is one row, not yet divided by temperature. `seen` are the ids of prompt and completion
/// so far (read only with a repetition penalty). Greedy: the largest logit, ties to the lower id.
/// Numerics: float32 logits, float64 sums: a run of 1,024 ids in as many lanes as a vector has, the
/// runs in their order, and the ids of the run that is drawn from one by one. A function of its
/// arguments and the processor's vectors. Threads: safe. Allocates only with top_k, top_p or a
/// repetition penalty.
int64_t sample_token(std::span<const float> logits,
                     const SamplingParameters& parameters,
                     std::span<const int64_t> seen,
                     double uniform);

}  // namespace lockstep::ops
