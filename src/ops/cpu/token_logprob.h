// One row of one block of the vocabulary: its part of a log-sum-exp, and the gradient of a
// log-probability.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free. bfloat16 is passed as its bits (uint16_t).
#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

/// The most columns that these kernels take at once.
inline constexpr int64_t kMaxLogprobColumns = 8192;

/// With x = (l - max) / temperature over some logits l.
struct LogSumExp {
  /// Of the logits, before the temperature.
  float max;
  /// sum exp x; NaN if a logit is NaN or the largest is infinite.
  double sum;
  /// sum exp(x) x, or 0 where not asked for.
  double weighted;
};

/// The log-sum-exp of `columns` <= kMaxLogprobColumns logits. float32 and bfloat16 logits of the
/// same values give the same bits.
LogSumExp log_sum_exp(const float* logits,
                      int64_t columns,
                      float inverse_temperature,
                      bool with_weighted);
LogSumExp log_sum_exp(const uint16_t* logits,
                      int64_t columns,
                      float inverse_temperature,
                      bool with_weighted);

/// What the gradient of one row's log-probability needs to know of the whole row.
struct LogprobRow {
  /// Over the whole vocabulary.
  float max;
  /// log sum exp((l - max) / temperature), over the whole vocabulary.
  float log_sum;
  float inverse_temperature;
  /// dlogprob / temperature.
  float scale;
  /// Column in this block; outside of [0, columns): in another block.
  int64_t target;
};

/// Replaces logits by (onehot - p) scale, p = exp((l - max) / temperature - log_sum), rounded to
/// their dtype.
void logprob_gradient(float* logits, int64_t columns, const LogprobRow& row);
void logprob_gradient(uint16_t* logits, int64_t columns, const LogprobRow& row);

}  // namespace lockstep::ops::cpu
