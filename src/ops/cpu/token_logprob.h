// One row of one block of the vocabulary: its part of a log-sum-exp, and the gradient of a
// log-probability and an entropy.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free. T is float, or uint16_t for the bits of a bfloat16.
#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

/// The most columns that these kernels take at once.
inline constexpr int64_t kMaxLogprobColumns = 8192;

/// The parts of a log-sum-exp over some logits l, with x = (l - max) / temperature.
struct LogSumExp {
  /// The largest logit, before the temperature.
  float max;
  /// sum exp x; NaN if a logit is NaN or the largest is infinite.
  double sum;
  /// sum exp(x) x, or 0 where not asked for.
  double weighted;
};

/// The log-sum-exp of `columns` <= kMaxLogprobColumns logits. float32 and bfloat16 logits of the
/// same values give the same bits.
template <class T>
LogSumExp log_sum_exp(const T* logits,
                      int64_t columns,
                      float inverse_temperature,
                      bool with_weighted);

/// What the gradient of one row's log-probability and entropy needs to know of the whole row.
struct LogprobRow {
  /// The largest logit of the whole vocabulary.
  float max;
  /// log sum exp((l - max) / temperature), over the whole vocabulary.
  float log_sum;
  float inverse_temperature;
  /// dlogprob / temperature.
  float scale;
  /// The token's column in this block; outside of [0, columns) it is in another block.
  int64_t target;
  /// The entropy of the row, and dentropy / temperature; 0: only the log-probability has a
  /// gradient.
  float entropy = 0;
  float entropy_scale = 0;
};

/// Replaces logits by (onehot - p) scale - p (log p + entropy) entropy_scale, rounded to their
/// dtype once; log p = (l - max) / temperature - log_sum.
template <class T>
void logprob_gradient(T* logits, int64_t columns, const LogprobRow& row);

}  // namespace lockstep::ops::cpu
