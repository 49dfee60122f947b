// SPDX-License-Identifier: Apache-2.0
#include "grpo/policy_step.h"

#include <algorithm>
#include <cmath>

#include "grpo/loss.h"

namespace lockstep::grpo {
namespace {

/// Sums over the samples of an optimizer step.
struct StepSums {
  SampleLossResult loss;
  double entropy_sum = 0, entropy_max = 0, entropy_min = 0, token_entropy_sum = 0;
  int64_t entropy_samples = 0, entropy_tokens = 0;

  void add(const SampleLossResult& sample) {
    loss.loss += sample.loss;
    loss.kl_sum += sample.kl_sum;
    loss.tokens += sample.tokens;
    loss.low_clipped += sample.low_clipped;
    loss.high_clipped += sample.high_clipped;
  }

  /// ms-swift's entropy/mean is the mean of the sequences' means, TRL's entropy the mean of all
  /// tokens.
  void add_entropy(std::span<const float> entropy) {
    if (entropy.empty()) return;
    double sum = 0;
    for (const float value : entropy) sum += value;
    const double mean = sum / static_cast<double>(entropy.size());
    entropy_max = entropy_samples ? std::max(entropy_max, mean) : mean;
    entropy_min = entropy_samples ? std::min(entropy_min, mean) : mean;
    entropy_sum += mean;
    token_entropy_sum += sum;
    entropy_tokens += std::ssize(entropy);
    ++entropy_samples;
  }

  void report(Metrics& metrics, bool with_kl) const {
    // The advantages of a group add up to 0, and so does an on-policy loss: what is left is
    // rounding.
    metrics.add("loss", std::abs(loss.loss) < 1e-12 ? 0 : loss.loss);
    const auto tokens = static_cast<double>(std::max<int64_t>(loss.tokens, 1));
    const double low = static_cast<double>(loss.low_clipped) / tokens,
                 high = static_cast<double>(loss.high_clipped) / tokens;
    metrics.add("clip_ratio/low_mean", low);
    metrics.add_min("clip_ratio/low_min", low);
    metrics.add("clip_ratio/high_mean", high);
    metrics.add_max("clip_ratio/high_max", high);
    metrics.add("clip_ratio/region_mean", low + high);
    if (with_kl && loss.tokens) metrics.add("kl", loss.kl_sum / tokens);
    if (!entropy_samples) return;
    metrics.add("entropy", token_entropy_sum / static_cast<double>(entropy_tokens));
    metrics.add("entropy/mean", entropy_sum / static_cast<double>(entropy_samples));
    metrics.add_max("entropy/max", entropy_max);
    metrics.add_min("entropy/min", entropy_min);
  }
};

}  // namespace

PolicyGradients policy_gradients(std::span<const Experience> step,
                                 train::Trainer& trainer,
                                 const GrpoRunOptions& options,
                                 const ScoreOptions& scoring,
                                 int64_t weight_version,
                                 Metrics& metrics) {
  const GrpoOptions& grpo = options.grpo;
  StepCounts counts{.samples = std::ssize(step),
                    .max_completion_length = grpo.max_completion_length};
  std::vector<train::Sample> samples;
  for (const Experience& experience : step) {
    const auto tokens = std::ssize(experience.sampler_logprobs);
    counts.completion_tokens += tokens;
    if (!(grpo.overlong_filter && experience.is_truncated)) counts.loss_tokens += tokens;
    samples.push_back(experience.sample);
  }
  StepSums sums;
  PolicyGradients learned;
  learned.gradients = trainer.gradients(
      samples, scoring,
      [&](int64_t index, const train::SampleScores& scores, std::span<float> gradient) {
        const Experience& experience = step[static_cast<size_t>(index)];
        // It was sampled under these very weights: the old policy is the forward itself, detached.
        const bool is_on_policy = experience.weight_version == weight_version;
        const SampleTerms terms{
            .logprobs = scores.logprobs,
            .old_logprobs = is_on_policy ? std::span<const float>() : old_policy(experience),
            .ref_logprobs = experience.ref_logprobs,
            .advantages = {&experience.advantage, 1},
            .is_filtered = grpo.overlong_filter && experience.is_truncated};
        sums.add(sample_loss(terms, options.loss, counts, gradient));
        if (is_on_policy && !scoring.dropout)
          learned.fresh.add(index, scores.logprobs, experience.sampler_logprobs);
        sums.add_entropy(scores.entropy);
      });
  sums.report(metrics, options.loss.beta > 0);
  return learned;
}

}  // namespace lockstep::grpo
