// The GRPO losses of one sample and their gradients, in closed form. It needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "grpo/objective_options.h"

namespace lockstep::grpo {

/// What the losses of an optimizer step's samples share, known before its backward pass: the counts
/// make the normaliser of the loss.
struct StepCounts {
  /// All samples of the step, including those without a loss token.
  int64_t samples = 0;
  /// The tokens of all completions, before overlong_filter.
  int64_t completion_tokens = 0;
  /// The tokens that are left after overlong_filter.
  int64_t loss_tokens = 0;
  /// Those of them that are learned from, after the entropy mask: the entropy bonus is their mean.
  int64_t learned_tokens = 0;
  /// The constant by which dr_grpo divides.
  int64_t max_completion_length = 0;
  /// The weight of the entropy bonus.
  double entropy_coef = 0;
};

/// The share of a sample in the loss of its group, for real.
struct GroupShare {
  double loss = 0;
  /// The derivative of the step's loss by the mean log ratio of the sample's tokens.
  double slope = 0;
};

/// What the loss of a sample reads, with one entry for each token of the completion. Logarithms are
/// natural.
struct SampleTerms {
  /// What the policy says now.
  std::span<const float> logprobs;
  /// What the policy said that sampled; empty on an on-policy step, where `logprobs` are the same.
  std::span<const float> old_logprobs;
  /// What the reference model says; empty without a KL term in the loss.
  std::span<const float> ref_logprobs;
  /// One for the whole completion, or one for each token.
  std::span<const double> advantages;
  /// Whether overlong_filter took it out of the loss; it still counts as a sample.
  bool is_filtered = false;
  /// The entropies of the policy now; empty without an entropy bonus.
  std::span<const float> entropy;
  /// 0 for tokens that the entropy mask leaves out; empty: none is left out.
  std::span<const uint8_t> learned;
  /// What corrects for the sampler (grpo/correction.h); empty: ones.
  std::span<const double> correction;
  /// Whether off_policy_sequence_mask_delta takes it out of the policy's term.
  bool is_masked = false;
  GroupShare group;
};

/// Sums over a sample's tokens; those of several samples are added for metrics.
struct SampleLossResult {
  /// This sample's share of the step's loss, divided by the normaliser.
  double loss = 0;
  /// The part of it that is none of the policy's: the entropy bonus, which has its sign.
  double bonus = 0;
  double kl_sum = 0;
  int64_t tokens = 0, low_clipped = 0, high_clipped = 0;
  double future_kl = 0, influence_weight = 0;
  int64_t safety_kept = 0, masked_samples = 0;

  void add(const SampleLossResult& other);
};

/// The share of one sample in the step's loss, and its gradients for each log-probability and, with
/// an entropy bonus, for each entropy.
///
///   loss = sum_t W (m_t c_t P_t + beta K_t) - entropy_coef H_t / learned tokens
///   P: the policy's term (grpo/policy_terms.h); K: the KL (grpo/kl_term.h), with
///   use_bias_correction_kl times the ratio; m: what filters leave; c: the correction
///   W: grpo, gspo, sapo: 1 / (len samples);  bnpo: 1 / loss tokens;  luspo: 1 / samples;
///      dr_grpo: 1 / (samples max_length);  dapo, cispo, fipo, vespo: 1 / completion tokens, or
///      loss tokens with dapo_denominator;  real: its group's loss, and the KL by loss tokens
///
/// `gradient` gets d loss / d logprob_t; `entropy_gradient` d loss / d entropy_t, and is empty
/// without a bonus. Numerics: float64 inside. bnpo and dapo count over the optimizer step, so that
/// no split of it changes them. Source: arXiv:2402.03300 (grpo), arXiv:2503.14476 (dapo),
/// arXiv:2503.20783 (dr_grpo), arXiv:2507.18071 (gspo), arXiv:2602.05261 (luspo); the order of the
/// factors is TRL 1.16's.
SampleLossResult sample_loss(const SampleTerms& terms,
                             const LossOptions& options,
                             const StepCounts& counts,
                             std::span<float> gradient,
                             std::span<float> entropy_gradient = {});

/// A completion as the loss of its group sees it.
struct GroupMember {
  int64_t group = 0;
  double advantage = 0;
  /// mean_t log(policy / old).
  double log_ratio = 0;
  /// The completions that the loss leaves out stay in the number of groups only.
  bool is_filtered = false;
};

/// The shares of completions in the loss of real.
///
///   S = log_ratio / tau; positives have A > 0;
///   loss = sum over groups with both kinds of
///          [log(1 + sum_neg exp(S)) + log(1 + sum_pos exp(-S))] / groups
///
/// Shapes: [N] -> [N]. Members of a group need not be neighbours. Source: arXiv:2602.05630,
/// ms-swift 4.6.
std::vector<GroupShare> group_shares(std::span<const GroupMember> members, double tau);

}  // namespace lockstep::grpo
