// SPDX-License-Identifier: Apache-2.0
#include "grpo/loss.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace lockstep::grpo {
namespace {

/// The inverse of what a token's loss is divided by.
double token_weight(const LossOptions& options, const StepCounts& counts, int64_t length) {
  const auto inverse = [](int64_t count) {
    return 1.0 / static_cast<double>(std::max<int64_t>(count, 1));
  };
  switch (options.loss_type) {
    case LossType::kGrpo:
      return inverse(length) * inverse(counts.samples);
    case LossType::kBnpo:
      return inverse(counts.loss_tokens);
    case LossType::kDrGrpo:
      return inverse(counts.samples) * inverse(counts.max_completion_length);
    case LossType::kDapo:
      return inverse(counts.completion_tokens);
  }
  return 0;
}

/// -min(min(r, delta) A, clip(r) A) and its derivative by r.
struct Surrogate {
  double value = 0, slope = 0;
  bool is_low_clipped = false, is_high_clipped = false;
};

Surrogate surrogate(double ratio, double advantage, const LossOptions& options) {
  const double low = 1 - options.epsilon, high = 1 + options.upper();
  const double capped = options.delta ? std::min(ratio, *options.delta) : ratio;
  const double plain = capped * advantage, clipped = std::clamp(ratio, low, high) * advantage;
  Surrogate result;
  result.value = -std::min(plain, clipped);
  // At equality both branches have the same slope inside the clip range, and torch's min splits it
  // evenly.
  const bool plain_moves = capped == ratio, clipped_moves = ratio >= low && ratio <= high;
  if (plain < clipped)
    result.slope = plain_moves ? -advantage : 0;
  else if (clipped < plain)
    result.slope = clipped_moves ? -advantage : 0;
  else
    result.slope = -advantage * 0.5 * ((plain_moves ? 1 : 0) + (clipped_moves ? 1 : 0));
  result.is_low_clipped = ratio < low && advantage < 0;
  result.is_high_clipped = ratio > high && advantage > 0;
  return result;
}

/// k3 estimate of KL(policy || reference) and its derivative by the policy's log-probability.
struct KlTerm {
  double value = 0, slope = 0;
};

KlTerm kl_term(double logprob, double ref_logprob) {
  const double difference = ref_logprob - logprob, x = std::clamp(difference, -20.0, 20.0);
  const double kl = std::exp(x) - x - 1;
  const bool is_held = x != difference || kl > 10 || kl < -10;
  return {std::clamp(kl, -10.0, 10.0), is_held ? 0 : 1 - std::exp(x)};
}

}  // namespace

SampleLossResult sample_loss(const SampleTerms& terms,
                             const LossOptions& options,
                             const StepCounts& counts,
                             std::span<float> gradient) {
  const auto length = static_cast<int64_t>(terms.logprobs.size());
  LOCKSTEP_CHECK(gradient.size() == terms.logprobs.size(), "{} gradients for {} tokens",
                 gradient.size(), length);
  std::fill(gradient.begin(), gradient.end(), 0.0f);
  SampleLossResult result;
  if (terms.is_filtered || !length) return result;
  const bool per_sequence = options.importance_sampling_level == RatioLevel::kSequence;
  const auto old_logprob = [&](size_t t) {
    return terms.old_logprobs.empty() ? terms.logprobs[t] : terms.old_logprobs[t];
  };
  const auto log_ratio = [&](size_t t) {
    return static_cast<double>(terms.logprobs[t]) - static_cast<double>(old_logprob(t));
  };

  double sequence_ratio = 0;
  if (per_sequence) {
    for (size_t t = 0; t < terms.logprobs.size(); ++t) sequence_ratio += log_ratio(t);
    sequence_ratio = std::exp(sequence_ratio / static_cast<double>(length));
  }
  const double weight = token_weight(options, counts, length);
  // The derivative of the sum of token losses by the mean log ratio.
  double sequence_slope = 0;
  for (size_t t = 0; t < terms.logprobs.size(); ++t) {
    const double ratio = per_sequence ? sequence_ratio : std::exp(log_ratio(t));
    const Surrogate term = surrogate(
        ratio, terms.advantages.size() == 1 ? terms.advantages[0] : terms.advantages[t], options);
    // A clipped token has no gradient, even if its ratio has overflowed.
    const double token_slope = term.slope == 0 ? 0 : term.slope * ratio;
    double token_loss = term.value, slope = per_sequence ? 0 : token_slope;
    sequence_slope += token_slope;
    if (!terms.ref_logprobs.empty()) {
      const KlTerm kl = kl_term(terms.logprobs[t], terms.ref_logprobs[t]);
      result.kl_sum += kl.value;
      token_loss += options.beta * kl.value;
      slope += options.beta * kl.slope;
    }
    result.loss += token_loss * weight;
    result.low_clipped += term.is_low_clipped;
    result.high_clipped += term.is_high_clipped;
    gradient[t] = static_cast<float>(slope * weight);
  }
  result.tokens = length;
  if (per_sequence) {
    const double share = sequence_slope * weight / static_cast<double>(length);
    for (size_t t = 0; t < gradient.size(); ++t)
      gradient[t] = static_cast<float>(static_cast<double>(gradient[t]) + share);
  }
  return result;
}

}  // namespace lockstep::grpo
