// The loss of an optimizer step, one completion after another, and its metrics.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "grpo/batch_plan.h"
#include "grpo/correction.h"
#include "grpo/exactness.h"
#include "grpo/experience.h"
#include "grpo/loss.h"
#include "grpo/metrics.h"
#include "grpo/policy_scores.h"

namespace lockstep::grpo {

/// An optimizer step before it is made.
struct PolicyStep {
  std::span<const Experience> completions;
  /// That of the weights as they are now.
  int64_t weight_version = 0;
  ScoreOptions scoring;
  /// The weight of the entropy bonus in this step.
  double entropy_coef = 0;
};

/// The loss of a step as a function of what the policy says of its completions.
///
/// A completion whose version is `weight_version` was sampled under the weights as they are now:
/// its old policy is what the forward says, detached. That of the others is old_policy(), which
/// throws if it does not know it. Not thread-safe.
class StepLoss {
 public:
  /// Whether the loss is one of groups, which are compared as a whole: then it has to know before
  /// its first sample what the policy says of all completions that changed().
  static bool needs_scores(const LossOptions& options) {
    return options.loss_type == LossType::kReal;
  }
  /// The completions of other weights than those of now, in order.
  static std::vector<const Experience*> changed(const PolicyStep& step);

  /// `step` and `options` must outlive it. `scores` are those of changed(), if it needs them.
  StepLoss(const PolicyStep& step,
           const GrpoRunOptions& options,
           std::span<const train::SampleScores> scores);

  /// Writes the derivatives for one completion: a train::SampleLoss. It counts nothing, since a
  /// rank computes some of the step's completions only.
  void learn(int64_t completion,
             const train::SampleScores& scores,
             train::SampleGradient gradient) const;
  /// Adds a completion to what is told below: each once, in order.
  void add(int64_t completion, const train::SampleScores& scores);

  /// Adds a term of the step's loss that is none of its completions'.
  void add_term(double value) {
    sums_.loss += value;
    sums_.bonus += value;
  }

  /// Of the completions so far.
  double loss() const { return sums_.loss; }
  /// How the forward compares with the sampler.
  const FreshDifferences& fresh() const { return fresh_; }
  /// The mean entropy of the tokens that are learned from; unset without an entropy bonus.
  std::optional<double> learned_entropy() const;
  /// [completion] the mean entropy of its tokens, unset without one; empty where none is computed.
  const std::vector<std::optional<double>>& mean_entropies() const { return mean_entropies_; }
  /// Adds loss, clipping, KL, entropy and the sampler's mismatch.
  void report(Metrics& metrics) const;

 private:
  /// The terms of a completion and the correction that they point to.
  struct Terms {
    SampleTerms terms;
    std::vector<double> correction;
  };
  Terms terms_of(int64_t completion, const train::SampleScores& scores) const;
  void add_entropy(int64_t completion, const SampleTerms& terms, std::span<const float> entropy);
  void report_clipping(Metrics& metrics) const;

  /// ms-swift's entropy/mean is the mean of the sequences' means, TRL's entropy the mean of all
  /// tokens.
  struct EntropySums {
    double of_samples = 0, largest = 0, least = 0, of_tokens = 0, of_learned_tokens = 0;
    int64_t samples = 0, tokens = 0;
  };

  const PolicyStep& step_;
  const GrpoRunOptions& options_;
  StepCounts counts_;
  /// Empty unless the loss is one of groups.
  std::vector<GroupShare> shares_;
  SampleLossResult sums_;
  CorrectionMetrics correction_;
  EntropySums entropy_;
  std::vector<std::optional<double>> mean_entropies_;
  FreshDifferences fresh_;
};

}  // namespace lockstep::grpo
