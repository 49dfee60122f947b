// SPDX-License-Identifier: Apache-2.0
#include "grpo/step_loss.h"

#include <algorithm>
#include <cmath>

#include "grpo/policy_terms.h"

namespace lockstep::grpo {
namespace {

bool is_filtered(const Experience& experience, const GrpoRunOptions& options) {
  return options.filters.overlong_filter && experience.is_truncated;
}

StepCounts counts_of(const PolicyStep& step, const GrpoRunOptions& options) {
  StepCounts counts{.samples = std::ssize(step.completions),
                    .max_completion_length = options.grpo.max_completion_length,
                    .entropy_coef = step.entropy_coef};
  for (const Experience& experience : step.completions) {
    const int64_t tokens = experience.sample.num_scored();
    counts.completion_tokens += tokens;
    if (is_filtered(experience, options)) continue;
    counts.loss_tokens += tokens;
    const auto& learned = experience.learned;
    counts.learned_tokens +=
        learned.empty() ? tokens : std::count(learned.begin(), learned.end(), uint8_t{1});
  }
  return counts;
}

/// Whether a completion of negative advantage has become much less likely than when it was sampled.
bool is_off_policy(const Experience& experience,
                   std::span<const float> logprobs,
                   const std::optional<double>& delta) {
  if (!delta || experience.advantage >= 0 || logprobs.empty()) return false;
  // Without the sampler's word, that of the policy which sampled; without either it is this one.
  const std::vector<float>& sampled =
      experience.sampler_logprobs.empty() ? experience.old_logprobs : experience.sampler_logprobs;
  if (sampled.empty()) return false;
  double difference = 0;
  for (size_t t = 0; t < logprobs.size(); ++t)
    difference += double{sampled[t]} - double{logprobs[t]};
  return difference / static_cast<double>(logprobs.size()) > *delta;
}

/// What the trainer says of the policy that sampled.
std::span<const float> sampling_policy(const SampleTerms& terms) {
  return terms.old_logprobs.empty() ? terms.logprobs : terms.old_logprobs;
}

/// What is nothing but rounding is 0: the advantages of a group add up to 0, and so does an
/// on-policy loss.
double without_rounding(double value) { return std::abs(value) < 1e-12 ? 0 : value; }

}  // namespace

std::vector<const Experience*> StepLoss::changed(const PolicyStep& step) {
  std::vector<const Experience*> found;
  for (const Experience& experience : step.completions)
    if (experience.weight_version != step.weight_version) found.push_back(&experience);
  return found;
}

StepLoss::StepLoss(const PolicyStep& step,
                   const GrpoRunOptions& options,
                   std::span<const train::SampleScores> scores)
    : step_(step), options_(options), counts_(counts_of(step, options)) {
  if (!needs_scores(options.loss)) return;
  std::vector<GroupMember> members;
  for (const Experience& experience : step.completions) {
    GroupMember& member = members.emplace_back();
    member.group = experience.group;
    member.advantage = experience.advantage;
    member.is_filtered = is_filtered(experience, options);
    if (experience.weight_version == step.weight_version) continue;
    member.log_ratio =
        policy_ratios(scores.front().logprobs, old_policy(experience), RatioLevel::kToken)
            .log_sequence;
    scores = scores.subspan(1);
  }
  shares_ = group_shares(members, options.loss.real_tau);
}

StepLoss::Terms StepLoss::terms_of(int64_t completion, const train::SampleScores& scores) const {
  const Experience& experience = step_.completions[static_cast<size_t>(completion)];
  Terms made;
  SampleTerms& terms = made.terms;
  terms.logprobs = scores.logprobs;
  if (experience.weight_version != step_.weight_version)
    terms.old_logprobs = old_policy(experience);
  if (options_.has_kl_in_loss()) terms.ref_logprobs = experience.ref_logprobs;
  terms.advantages = experience.token_advantages;
  if (terms.advantages.empty()) terms.advantages = {&experience.advantage, 1};
  terms.is_filtered = is_filtered(experience, options_);
  terms.entropy = scores.entropy;
  terms.learned = experience.learned;
  terms.is_masked =
      is_off_policy(experience, scores.logprobs, options_.filters.off_policy_sequence_mask_delta);
  if (!shares_.empty()) terms.group = shares_[static_cast<size_t>(completion)];
  if (options_.correction.is_on() && !terms.is_filtered) {
    made.correction =
        correction_weights(sampling_policy(terms), drawn_logprobs(experience), options_.correction);
    terms.correction = made.correction;
  }
  return made;
}

void StepLoss::learn(int64_t completion,
                     const train::SampleScores& scores,
                     train::SampleGradient gradient) const {
  const Terms made = terms_of(completion, scores);
  sample_loss(made.terms, options_.loss, counts_, gradient.logprobs, gradient.entropy);
}

void StepLoss::add(int64_t completion, const train::SampleScores& scores) {
  const Experience& experience = step_.completions[static_cast<size_t>(completion)];
  const Terms made = terms_of(completion, scores);
  const SampleTerms& terms = made.terms;
  std::vector<float> slopes(scores.logprobs.size()), entropy_slopes;
  if (options_.loss.has_entropy_bonus()) entropy_slopes.resize(scores.entropy.size());
  sums_.add(sample_loss(terms, options_.loss, counts_, slopes, entropy_slopes));
  if (options_.correction.is_on() && !terms.is_filtered)
    correction_.add(sampling_policy(terms), drawn_logprobs(experience), made.correction,
                    options_.correction);
  // A forward that drops inputs of adapters is none that sampled; a recorded completion may not
  // have the sampler's word.
  if (terms.old_logprobs.empty() && !step_.scoring.dropout && !experience.sampler_logprobs.empty())
    fresh_.add(completion, scores.logprobs, experience.sampler_logprobs);
  add_entropy(completion, terms, scores.entropy);
}

void StepLoss::add_entropy(int64_t completion,
                           const SampleTerms& terms,
                           std::span<const float> entropy) {
  if (entropy.empty()) return;
  double sum = 0;
  for (size_t t = 0; t < entropy.size(); ++t) {
    sum += entropy[t];
    if (!terms.is_filtered && (terms.learned.empty() || terms.learned[t]))
      entropy_.of_learned_tokens += entropy[t];
  }
  const double mean = sum / static_cast<double>(entropy.size());
  mean_entropies_.resize(step_.completions.size());
  mean_entropies_[static_cast<size_t>(completion)] = mean;
  entropy_.largest = entropy_.samples ? std::max(entropy_.largest, mean) : mean;
  entropy_.least = entropy_.samples ? std::min(entropy_.least, mean) : mean;
  entropy_.of_samples += mean;
  entropy_.of_tokens += sum;
  entropy_.tokens += std::ssize(entropy);
  ++entropy_.samples;
}

std::optional<double> StepLoss::learned_entropy() const {
  if (!options_.loss.has_entropy_bonus() || !counts_.learned_tokens) return {};
  return entropy_.of_learned_tokens / static_cast<double>(counts_.learned_tokens);
}

void StepLoss::report_clipping(Metrics& metrics) const {
  const auto tokens = static_cast<double>(std::max<int64_t>(sums_.tokens, 1));
  const double low = static_cast<double>(sums_.low_clipped) / tokens,
               high = static_cast<double>(sums_.high_clipped) / tokens;
  switch (options_.loss.loss_type) {
    case LossType::kSapo:
    case LossType::kReal:
    case LossType::kVespo:
      return;  // They clip nothing.
    case LossType::kCispo:
      metrics.add("cispo_clip_ratio", high);
      return;
    case LossType::kFipo:
      metrics.add("fipo/future_kl_mean", sums_.future_kl / tokens);
      metrics.add("fipo/influence_weight_mean", sums_.influence_weight / tokens);
      metrics.add("fipo/safety_keep_ratio", static_cast<double>(sums_.safety_kept) / tokens);
      break;
    default:
      break;
  }
  metrics.add("clip_ratio/low_mean", low);
  metrics.add_min("clip_ratio/low_min", low);
  metrics.add("clip_ratio/high_mean", high);
  metrics.add_max("clip_ratio/high_max", high);
  metrics.add("clip_ratio/region_mean", low + high);
}

void StepLoss::report(Metrics& metrics) const {
  metrics.add("loss", without_rounding(sums_.loss));
  if (options_.loss.has_entropy_bonus() || options_.loss.router_aux_loss_coef > 0)
    metrics.add("policy_loss", without_rounding(sums_.loss - sums_.bonus));
  if (options_.loss.has_entropy_bonus()) metrics.add("entropy_coef", step_.entropy_coef);
  report_clipping(metrics);
  if (options_.has_kl_in_loss() && sums_.tokens)
    metrics.add("kl", sums_.kl_sum / static_cast<double>(sums_.tokens));
  if (options_.filters.off_policy_sequence_mask_delta)
    metrics.add(
        "off_policy_sequence_mask_ratio",
        static_cast<double>(sums_.masked_samples) / static_cast<double>(step_.completions.size()));
  correction_.report(metrics);
  if (!entropy_.samples || !options_.logs_entropy()) return;
  metrics.add("entropy", entropy_.of_tokens / static_cast<double>(entropy_.tokens));
  metrics.add("entropy/mean", entropy_.of_samples / static_cast<double>(entropy_.samples));
  metrics.add_max("entropy/max", entropy_.largest);
  metrics.add_min("entropy/min", entropy_.least);
}

}  // namespace lockstep::grpo
