// The GRPO losses of one sample and their gradients, in closed form. It needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "grpo/options.h"

namespace lockstep::grpo {

/// Counts of an optimizer step, known before its backward pass. They make the normaliser of the
/// loss.
struct StepCounts {
  /// All samples of the step, including those without a loss token.
  int64_t samples = 0;
  /// The tokens of all completions, before overlong_filter; dapo divides by them.
  int64_t completion_tokens = 0;
  /// The tokens that are left after overlong_filter; bnpo divides by them.
  int64_t loss_tokens = 0;
  /// The constant by which dr_grpo divides.
  int64_t max_completion_length = 0;
};

/// What the loss of a sample reads, with one entry for each token of the completion. Logarithms are
/// natural.
struct SampleTerms {
  /// What the policy says now.
  std::span<const float> logprobs;
  /// What the policy said that sampled; empty on an on-policy step, where `logprobs` are the same.
  std::span<const float> old_logprobs;
  /// What the reference model says; empty when beta is 0.
  std::span<const float> ref_logprobs;
  /// One for the whole completion, or one for each token.
  std::span<const double> advantages;
  /// Whether overlong_filter took it out of the loss; it still counts as a sample.
  bool is_filtered = false;
};

/// Sums over a sample's tokens; those of several samples are added for metrics.
struct SampleLossResult {
  /// This sample's share of the step's loss, divided by the normaliser.
  double loss = 0;
  double kl_sum = 0;
  int64_t tokens = 0, low_clipped = 0, high_clipped = 0;
};

/// The share of one sample in the step's loss, and its gradient for each log-probability.
///
///   token:    r_t = exp(logprob_t - old_t);  sequence: r = exp(mean_t (logprob_t - old_t))
///   l_t = -min(min(r, delta) A_t, clip(r, 1 - eps, 1 + eps_high) A_t) + beta (exp(x_t) - x_t - 1)
///   x_t = ref_t - logprob_t
///   grpo: sum_t l_t / (len samples);  bnpo: / loss_tokens;  dapo: / completion_tokens;
///   dr_grpo: / (samples max_length)
///
/// x is held in [-20, 20] and the KL term in [-10, 10], as ms-swift does (their gradients are 0
/// outside). `gradient` gets d loss / d logprob_t. Numerics: float64 inside. Source:
/// arXiv:2402.03300 (grpo), arXiv:2503.14476 (dapo), arXiv:2503.20783 (dr_grpo), arXiv:2507.18071
/// (sequence level). bnpo and dapo count over the optimizer
/// step, so that no split of it changes them.
SampleLossResult sample_loss(const SampleTerms& terms,
                             const LossOptions& options,
                             const StepCounts& counts,
                             std::span<float> gradient);

}  // namespace lockstep::grpo
