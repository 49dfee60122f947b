// Estimates of KL(policy || reference) from one sampled token. It needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "grpo/objective_options.h"

namespace lockstep::grpo {

struct KlTerm {
  double value = 0;
  /// Its derivative by the policy's log-probability.
  double slope = 0;
};

/// The estimate of one token; x = ref_logprob - logprob, held in [-20, 20].
///
///   k1: -x;  k2: x^2 / 2;  k3: exp(x) - x - 1, held in [-10, 10]
///
/// What is held has slope 0. Source: http://joschu.net/blog/kl-approx.html; the bounds are
/// ms-swift's.
KlTerm kl_term(double logprob, double ref_logprob, KlEstimator estimator);

}  // namespace lockstep::grpo
