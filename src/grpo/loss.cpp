// SPDX-License-Identifier: Apache-2.0
#include "grpo/loss.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/check.h"
#include "grpo/kl_term.h"
#include "grpo/policy_terms.h"

namespace lockstep::grpo {
namespace {

double inverse(int64_t count) { return 1.0 / static_cast<double>(std::max<int64_t>(count, 1)); }

/// The inverse of what a token's loss is divided by.
double token_weight(const LossOptions& options, const StepCounts& counts, int64_t length) {
  switch (options.loss_type) {
    case LossType::kGrpo:
    case LossType::kGspo:
    case LossType::kSapo:
      return inverse(length) * inverse(counts.samples);
    case LossType::kBnpo:
    case LossType::kReal:
      return inverse(counts.loss_tokens);
    case LossType::kDrGrpo:
      return inverse(counts.samples) * inverse(counts.max_completion_length);
    case LossType::kLuspo:
      return inverse(counts.samples);
    case LossType::kDapo:
    case LossType::kCispo:
    case LossType::kFipo:
    case LossType::kVespo:
      return inverse(options.dapo_denominator == DapoDenominator::kAllTokens
                         ? counts.completion_tokens
                         : counts.loss_tokens);
  }
  return 0;
}

/// A token's loss and its derivatives, in the sense of PolicyTerms::Term.
using Term = PolicyTerms::Term;

/// Adds beta K of token `t`, times its ratio if the KL is corrected for its bias.
void add_kl(const KlTerm& kl,
            const PolicyRatios& ratios,
            size_t t,
            const LossOptions& options,
            Term& term) {
  const double factor = options.use_bias_correction_kl ? ratios.at(t) : 1;
  term.value += options.beta * kl.value * factor;
  term.own_slope += options.beta * kl.slope * factor;
  if (options.use_bias_correction_kl) term.ratio_slope += options.beta * kl.value * factor;
}

/// Takes entropy_coef times the mean entropy of the learned tokens off the loss.
double entropy_bonus(const SampleTerms& terms,
                     const StepCounts& counts,
                     std::span<float> gradient) {
  const double weight = counts.entropy_coef * inverse(counts.learned_tokens);
  double bonus = 0;
  for (size_t t = 0; t < gradient.size(); ++t) {
    if (!terms.learned.empty() && !terms.learned[t]) continue;
    bonus -= weight * terms.entropy[t];
    gradient[t] = static_cast<float>(-weight);
  }
  return bonus;
}

}  // namespace

void SampleLossResult::add(const SampleLossResult& other) {
  loss += other.loss;
  bonus += other.bonus;
  kl_sum += other.kl_sum;
  tokens += other.tokens;
  low_clipped += other.low_clipped;
  high_clipped += other.high_clipped;
  future_kl += other.future_kl;
  influence_weight += other.influence_weight;
  safety_kept += other.safety_kept;
  masked_samples += other.masked_samples;
}

SampleLossResult sample_loss(const SampleTerms& terms,
                             const LossOptions& options,
                             const StepCounts& counts,
                             std::span<float> gradient,
                             std::span<float> entropy_gradient) {
  const size_t length = terms.logprobs.size();
  LOCKSTEP_CHECK(gradient.size() == length, "{} gradients for {} tokens", gradient.size(), length);
  std::fill(gradient.begin(), gradient.end(), 0.0f);
  std::fill(entropy_gradient.begin(), entropy_gradient.end(), 0.0f);
  SampleLossResult result;
  if (terms.is_filtered || !length) return result;

  const PolicyRatios ratios =
      policy_ratios(terms.logprobs, terms.old_logprobs, options.ratio_level());
  // The weight of vespo has the correction inside.
  const bool is_vespo = options.loss_type == LossType::kVespo;
  PolicyTerms policy =
      policy_terms({.logprobs = terms.logprobs,
                    .ratios = ratios,
                    .advantages = terms.advantages,
                    .correction = is_vespo ? terms.correction : std::span<const double>()},
                   options);
  const double weight = token_weight(options, counts, std::ssize(terms.logprobs));
  const bool is_of_sequence = ratios.level == RatioLevel::kSequence;
  double sequence_slope = 0;
  for (size_t t = 0; t < length; ++t) {
    Term& term = policy.terms[t];
    double factor = terms.is_masked || (!terms.learned.empty() && !terms.learned[t]) ? 0 : 1;
    if (!terms.correction.empty() && !is_vespo) factor *= terms.correction[t];
    if (factor == 0)
      term = {};
    else
      term = {term.value * factor, term.ratio_slope * factor, term.own_slope * factor};
    if (!terms.ref_logprobs.empty()) {
      const KlTerm kl = kl_term(terms.logprobs[t], terms.ref_logprobs[t], options.kl_estimator);
      result.kl_sum += kl.value;
      add_kl(kl, ratios, t, options, term);
    }
    result.loss += term.value * weight;
    sequence_slope += term.ratio_slope;
    gradient[t] =
        static_cast<float>((term.own_slope + (is_of_sequence ? 0 : term.ratio_slope)) * weight);
  }
  result.loss += terms.group.loss;
  // What each log-probability moves by way of the mean log ratio.
  const double share = ((is_of_sequence ? sequence_slope * weight : 0) + terms.group.slope) /
                       static_cast<double>(length);
  if (share != 0)
    for (float& slope : gradient) slope = static_cast<float>(double{slope} + share);
  if (!entropy_gradient.empty()) result.bonus = entropy_bonus(terms, counts, entropy_gradient);
  result.loss += result.bonus;
  result.tokens = std::ssize(terms.logprobs);
  result.low_clipped = policy.low_clipped;
  result.high_clipped = policy.high_clipped;
  result.future_kl = policy.future_kl;
  result.influence_weight = policy.influence_weight;
  result.safety_kept = policy.safety_kept;
  result.masked_samples = terms.is_masked;
  return result;
}

std::vector<GroupShare> group_shares(std::span<const GroupMember> members, double tau) {
  struct Sums {
    // 1 + the sums of exp(S) of negatives and of exp(-S) of positives, each times exp(-shift).
    double shift[2] = {0, 0}, sum[2] = {1, 1};
    int64_t count[2] = {0, 0};
    int64_t members = 0;
  };
  // By kind: 0 negatives, 1 positives.
  const auto kind_of = [](const GroupMember& member) { return member.advantage > 0 ? 1 : 0; };
  const auto exponent_of = [&](const GroupMember& member) {
    return (kind_of(member) ? -member.log_ratio : member.log_ratio) / tau;
  };
  std::map<int64_t, Sums> groups;
  for (const GroupMember& member : members) {
    Sums& group = groups[member.group];
    ++group.members;
    if (member.is_filtered) continue;
    const int kind = kind_of(member);
    const double exponent = exponent_of(member), shift = std::max(group.shift[kind], exponent);
    group.sum[kind] =
        group.sum[kind] * std::exp(group.shift[kind] - shift) + std::exp(exponent - shift);
    group.shift[kind] = shift;
    ++group.count[kind];
  }
  const double weight = inverse(std::ssize(groups));
  std::vector<GroupShare> shares;
  for (const GroupMember& member : members) {
    const Sums& group = groups.at(member.group);
    GroupShare& share = shares.emplace_back();
    if (!group.count[0] || !group.count[1] || member.is_filtered) continue;
    double loss = 0;
    for (const int kind : {0, 1}) loss += group.shift[kind] + std::log(group.sum[kind]);
    const int kind = kind_of(member);
    share.loss = weight * loss / static_cast<double>(group.count[0] + group.count[1]);
    const double softmax = std::exp(exponent_of(member) - group.shift[kind]) / group.sum[kind];
    share.slope = weight * softmax / tau * (kind ? -1 : 1);
  }
  return shares;
}

}  // namespace lockstep::grpo
