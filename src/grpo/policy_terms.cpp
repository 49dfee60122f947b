// SPDX-License-Identifier: Apache-2.0
#include "grpo/policy_terms.h"

#include <algorithm>
#include <cmath>

namespace lockstep::grpo {
namespace {

using Term = PolicyTerms::Term;

/// -min(min(r, delta) A, clip(r) A) and its derivative by log r.
Term clipped_term(double ratio, double advantage, const LossOptions& options) {
  const double low = 1 - options.epsilon, high = 1 + options.upper();
  const double capped = options.delta ? std::min(ratio, *options.delta) : ratio;
  const double plain = capped * advantage, clipped = std::clamp(ratio, low, high) * advantage;
  // At equality both branches have the same slope inside the clip range, and torch's min splits it
  // evenly.
  const bool plain_moves = capped == ratio, clipped_moves = ratio >= low && ratio <= high;
  double slope = 0;
  if (plain < clipped)
    slope = plain_moves ? -advantage : 0;
  else if (clipped < plain)
    slope = clipped_moves ? -advantage : 0;
  else
    slope = -advantage * 0.5 * ((plain_moves ? 1 : 0) + (clipped_moves ? 1 : 0));
  // A clipped token has no gradient, even if its ratio has overflowed.
  return {.value = -std::min(plain, clipped), .ratio_slope = slope == 0 ? 0 : slope * ratio};
}

Term gated_term(double ratio, double advantage, const LossOptions& options) {
  const double tau = advantage > 0 ? options.tau_pos : options.tau_neg;
  const double gate = 1 / (1 + std::exp(-tau * (ratio - 1)));
  // Where the ratio has overflowed, the gate is 1 and does not move.
  const double slope = gate == 1 ? 0 : -4 * gate * (1 - gate) * advantage * ratio;
  return {.value = -gate * 4 / tau * advantage, .ratio_slope = slope};
}

/// -weight A logp, the weight detached.
Term weighted_term(double weight, double advantage, double logprob) {
  return {.value = -weight * advantage * logprob, .own_slope = -weight * advantage};
}

/// log w of a sequence, for vespo.
double log_sequence_weight(const PolicyInput& input) {
  constexpr double kHighest = 20;
  const double lowest = std::log(1e-8);
  double log_weight = 0;
  for (const double log_ratio : input.ratios.log_token)
    log_weight += std::clamp(log_ratio, -kHighest, kHighest);
  for (const double weight : input.correction)
    log_weight += std::clamp(std::log(weight), lowest, kHighest);
  return std::clamp(log_weight, lowest, kHighest);
}

/// phi(w).
double vespo_weight(double log_weight, double advantage, const LossOptions& options) {
  const double k = advantage >= 0 ? options.vespo_k_pos : options.vespo_k_neg,
               lambda = advantage >= 0 ? options.vespo_lambda_pos : options.vespo_lambda_neg;
  return std::exp(lambda + k * log_weight - lambda * std::exp(log_weight));
}

/// Multiplies the clipped terms by the weights that later tokens give them.
void apply_influence(const PolicyInput& input, const LossOptions& options, PolicyTerms& made) {
  const double gamma = std::exp2(-1 / options.fipo_decay_rate), range = options.fipo_clip_range;
  double future = 0;
  for (size_t t = made.terms.size(); t-- > 0;) {
    const double ratio = input.ratios.at(t);
    const bool counts = !options.delta || ratio <= *options.delta;
    future = (counts ? input.ratios.log_token[t] : 0) + gamma * future;
    double weight = std::exp(future);
    if (range > 0)
      weight = std::clamp(weight, options.fipo_clip_high_only ? 1.0 : 1 - range, 1 + range);
    const bool is_safe = !(input.advantage(t) < 0 && ratio > options.fipo_safety_threshold);
    if (!is_safe) weight = std::clamp(weight, 0.8, 1.0);
    made.terms[t].value *= weight;
    made.terms[t].ratio_slope *= weight;
    made.future_kl += future;
    made.influence_weight += weight;
    made.safety_kept += is_safe;
  }
}

}  // namespace

double PolicyRatios::at(size_t token) const {
  return std::exp(level == RatioLevel::kToken ? log_token[token] : log_sequence);
}

PolicyRatios policy_ratios(std::span<const float> logprobs,
                           std::span<const float> old_logprobs,
                           RatioLevel level) {
  PolicyRatios ratios{.log_token = std::vector<double>(logprobs.size()), .level = level};
  for (size_t t = 0; t < logprobs.size(); ++t) {
    if (!old_logprobs.empty()) ratios.log_token[t] = double{logprobs[t]} - double{old_logprobs[t]};
    ratios.log_sequence += ratios.log_token[t];
  }
  ratios.log_sequence /= static_cast<double>(std::max<size_t>(logprobs.size(), 1));
  return ratios;
}

PolicyTerms policy_terms(const PolicyInput& input, const LossOptions& options) {
  PolicyTerms made{.terms = std::vector<Term>(input.logprobs.size())};
  if (options.loss_type == LossType::kReal) return made;
  const double log_weight = options.loss_type == LossType::kVespo ? log_sequence_weight(input) : 0;
  for (size_t t = 0; t < made.terms.size(); ++t) {
    const double advantage = input.advantage(t), ratio = input.ratios.at(t);
    switch (options.loss_type) {
      case LossType::kCispo:
        made.terms[t] =
            weighted_term(std::min(ratio, options.upper()), advantage, input.logprobs[t]);
        made.high_clipped += ratio > options.upper() && advantage > 0;
        break;
      case LossType::kSapo:
        made.terms[t] = gated_term(ratio, advantage, options);
        break;
      case LossType::kVespo:
        made.terms[t] = weighted_term(vespo_weight(log_weight, advantage, options), advantage,
                                      input.logprobs[t]);
        break;
      default:
        made.terms[t] = clipped_term(ratio, advantage, options);
        made.low_clipped += ratio < 1 - options.epsilon && advantage < 0;
        made.high_clipped += ratio > 1 + options.upper() && advantage > 0;
    }
  }
  if (options.loss_type == LossType::kFipo) apply_influence(input, options, made);
  return made;
}

}  // namespace lockstep::grpo
