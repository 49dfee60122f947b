// SPDX-License-Identifier: Apache-2.0
#include "grpo/kl_term.h"

#include <algorithm>
#include <cmath>

namespace lockstep::grpo {

KlTerm kl_term(double logprob, double ref_logprob, KlEstimator estimator) {
  constexpr double kLargestDifference = 20, kLargest = 10;
  const double difference = ref_logprob - logprob,
               x = std::clamp(difference, -kLargestDifference, kLargestDifference);
  const bool is_held = x != difference;
  switch (estimator) {
    case KlEstimator::kK1:
      return {-x, is_held ? 0.0 : 1.0};
    case KlEstimator::kK2:
      return {x * x / 2, is_held ? 0.0 : -x};
    case KlEstimator::kK3:
      break;
  }
  const double kl = std::exp(x) - x - 1;
  return {std::min(kl, kLargest), is_held || kl > kLargest ? 0.0 : 1 - std::exp(x)};
}

}  // namespace lockstep::grpo
