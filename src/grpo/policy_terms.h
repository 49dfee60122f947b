// What each loss says about the tokens of one completion, before they become one number. It needs
// no libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "grpo/objective_options.h"

namespace lockstep::grpo {

/// The ratios of the policy to the one that sampled.
struct PolicyRatios {
  /// [T] log(policy / old) of each token.
  std::vector<double> log_token;
  /// The mean of these over the sequence.
  double log_sequence = 0;
  RatioLevel level = RatioLevel::kToken;

  /// The ratio that a token's term has.
  double at(size_t token) const;
};
PolicyRatios policy_ratios(std::span<const float> logprobs,
                           std::span<const float> old_logprobs,
                           RatioLevel level);

/// What a completion's terms are made of; one entry a token.
struct PolicyInput {
  std::span<const float> logprobs;
  const PolicyRatios& ratios;
  /// One for each token, or one for all.
  std::span<const double> advantages;
  /// The weights that correct for the sampler, for vespo alone; empty: ones.
  std::span<const double> correction;

  double advantage(size_t token) const { return advantages[advantages.size() == 1 ? 0 : token]; }
};

/// One number for each token, and what a metric sums.
struct PolicyTerms {
  struct Term {
    double value = 0;
    /// Its derivative by the logarithm of the ratio.
    double ratio_slope = 0;
    /// Its derivative by the token's own log-probability, besides that through the ratio.
    double own_slope = 0;
  };
  std::vector<Term> terms;
  int64_t low_clipped = 0, high_clipped = 0;
  /// fipo: sums over tokens, and tokens that the safety threshold did not hold.
  double future_kl = 0, influence_weight = 0;
  int64_t safety_kept = 0;
};

/// The terms of each loss; those of real are 0, for its loss is one of groups.
///
///   grpo, bnpo, dr_grpo, dapo, gspo, luspo:
///           -min(min(r, delta) A, clip(r, 1 - epsilon, 1 + epsilon_high) A)
///   cispo:  -sg(min(r, epsilon_high)) A logp
///   sapo:   -sigmoid(tau (r - 1)) 4 / tau A, tau of the advantage's sign
///   fipo:   grpo's times f_t = clip(exp(sum_{k>=t} gamma^(k-t) log r_k), 1, 1 + range),
///           gamma = 2^(-1/decay); where r > delta, log r counts 0; where A < 0 and r > the safety
///           threshold, f is held in [0.8, 1]
///   vespo:  -sg(phi(w)) A logp, phi(w) = exp(lambda) w^k exp(-lambda w), w = prod_t r_t (times the
///           weights that correct for the sampler), k and lambda of the advantage's sign
///
/// Numerics: float64. Source: arXiv:2402.03300 (grpo), arXiv:2505.07291 (delta), arXiv:2506.13585
/// (cispo), arXiv:2511.20347 (sapo), arXiv:2603.19835 (fipo), arXiv:2602.10693 (vespo).
PolicyTerms policy_terms(const PolicyInput& input, const LossOptions& options);

}  // namespace lockstep::grpo
