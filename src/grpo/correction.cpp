// SPDX-License-Identifier: Apache-2.0
#include "grpo/correction.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace lockstep::grpo {
namespace {

constexpr double kLargestLog = 20;

double held_log(double log_ratio) { return std::clamp(log_ratio, -kLargestLog, kLargestLog); }

bool is_of_sequences(CorrectionMode mode) {
  return mode == CorrectionMode::kSequenceTruncate || mode == CorrectionMode::kSequenceMask;
}
bool is_mask(CorrectionMode mode) {
  return mode == CorrectionMode::kTokenMask || mode == CorrectionMode::kSequenceMask;
}

std::vector<double> token_ratios(std::span<const float> policy, std::span<const float> sampler) {
  std::vector<double> ratios;
  for (size_t t = 0; t < policy.size(); ++t)
    ratios.push_back(std::exp(held_log(double{policy[t]} - double{sampler[t]})));
  return ratios;
}

double sequence_ratio(std::span<const float> policy,
                      std::span<const float> sampler,
                      SequenceRatio kind) {
  double sum = 0;
  for (size_t t = 0; t < policy.size(); ++t) {
    const double log_ratio = double{policy[t]} - double{sampler[t]};
    sum += kind == SequenceRatio::kProduct ? log_ratio : held_log(log_ratio);
  }
  if (kind == SequenceRatio::kGeometricMean && !policy.empty())
    sum /= static_cast<double>(policy.size());
  return std::exp(held_log(sum));
}

bool is_inside(double ratio, const CorrectionOptions& options) {
  return ratio <= options.rollout_importance_sampling_threshold &&
         ratio >= options.rollout_importance_sampling_threshold_lower.value_or(0);
}

/// The ratio truncated, or 0 where it is masked.
double bounded(double ratio, const CorrectionOptions& options) {
  if (is_inside(ratio, options)) return ratio;
  if (is_mask(*options.rollout_importance_sampling_mode)) return 0;
  return std::clamp(ratio, options.rollout_importance_sampling_threshold_lower.value_or(0),
                    options.rollout_importance_sampling_threshold);
}

}  // namespace

std::vector<double> correction_weights(std::span<const float> policy,
                                       std::span<const float> sampler,
                                       const CorrectionOptions& options) {
  LOCKSTEP_CHECK(policy.size() == sampler.size(), "{} log-probabilities against {}", policy.size(),
                 sampler.size());
  if (!options.rollout_importance_sampling_mode) return {};
  const CorrectionMode mode = *options.rollout_importance_sampling_mode;
  std::vector<double> weights = token_ratios(policy, sampler);
  if (!is_of_sequences(mode)) {
    for (double& weight : weights) weight = bounded(weight, options);
    return weights;
  }
  const SequenceRatio kind = options.rollout_importance_sampling_sequence_ratio;
  const double weight = bounded(sequence_ratio(policy, sampler, kind), options);
  const bool keeps_tokens =
      mode == CorrectionMode::kSequenceMask && kind == SequenceRatio::kGeometricMean && weight > 0;
  if (!keeps_tokens) std::fill(weights.begin(), weights.end(), weight);
  return weights;
}

void CorrectionMetrics::add(std::span<const float> policy,
                            std::span<const float> sampler,
                            std::span<const double> weights,
                            const CorrectionOptions& options) {
  if (policy.empty()) return;
  double policy_sum = 0, sampler_sum = 0;
  for (size_t t = 0; t < policy.size(); ++t) {
    const double log_ratio = double{policy[t]} - double{sampler[t]}, held = held_log(log_ratio);
    policy_sum += policy[t];
    sampler_sum += sampler[t];
    sums_.difference -= log_ratio;
    sums_.k3 += std::min(std::exp(held) - held - 1, 10.0);
    sums_.squared_token += std::exp(2 * held);
  }
  const double length = static_cast<double>(policy.size()), policy_mean = policy_sum / length,
               sampler_mean = sampler_sum / length, difference = sampler_mean - policy_mean;
  sums_.policy_ppl += std::exp(-policy_mean);
  sums_.policy_log_ppl -= policy_mean;
  sums_.sampler_ppl += std::exp(-sampler_mean);
  sums_.sampler_log_ppl -= sampler_mean;
  sums_.log_ppl_diff += difference;
  sums_.log_ppl_abs_diff += std::abs(difference);
  sums_.ppl_ratio += std::exp(difference);
  sums_.squared_sequence += std::exp(2 * held_log(-difference));
  largest_ = sequences_ ? std::max(largest_, difference) : difference;
  least_ = sequences_ ? std::min(least_, difference) : difference;
  ++sequences_;
  tokens_ += std::ssize(policy);
  if (weights.empty()) return;
  const double threshold = options.rollout_importance_sampling_threshold;
  for (const double weight : weights) {
    const double held = std::clamp(weight, std::min(1 / threshold, threshold), threshold);
    sums_.weight += weight;
    sums_.held += held;
    sums_.squared_held += held * held;
  }
  weighted_tokens_ += std::ssize(weights);
  if (is_of_sequences(*options.rollout_importance_sampling_mode)) {
    ++clippable_;
    sums_.clipped += !is_inside(
        sequence_ratio(policy, sampler, options.rollout_importance_sampling_sequence_ratio),
        options);
    return;
  }
  clippable_ += std::ssize(weights);
  for (const double ratio : token_ratios(policy, sampler))
    sums_.clipped += !is_inside(ratio, options);
}

void CorrectionMetrics::report(Metrics& metrics) const {
  if (!sequences_) return;
  const auto add = [&](const char* name, double value) {
    metrics.add(std::string("rollout_correction/") + name, value);
  };
  const double sequences = static_cast<double>(sequences_), tokens = static_cast<double>(tokens_);
  add("training_ppl", sums_.policy_ppl / sequences);
  add("training_log_ppl", sums_.policy_log_ppl / sequences);
  add("rollout_ppl", sums_.sampler_ppl / sequences);
  add("rollout_log_ppl", sums_.sampler_log_ppl / sequences);
  add("kl", sums_.difference / tokens);
  add("k3_kl", sums_.k3 / tokens);
  add("log_ppl_diff", sums_.log_ppl_diff / sequences);
  add("log_ppl_abs_diff", sums_.log_ppl_abs_diff / sequences);
  metrics.add_max("rollout_correction/log_ppl_diff_max", largest_);
  metrics.add_min("rollout_correction/log_ppl_diff_min", least_);
  add("ppl_ratio", sums_.ppl_ratio / sequences);
  add("chi2_token", sums_.squared_token / tokens - 1);
  add("chi2_seq", sums_.squared_sequence / sequences - 1);
  if (!weighted_tokens_) return;
  const double weighted = static_cast<double>(weighted_tokens_);
  add("is_weight_mean", sums_.weight / weighted);
  add("ess", sums_.held * sums_.held / (weighted * sums_.squared_held));
  add("clipped_frac", sums_.clipped / static_cast<double>(clippable_));
}

}  // namespace lockstep::grpo
