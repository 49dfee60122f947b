// Log-probabilities of sampled completions with which the loss compares: those of the policy that
// sampled them, and those of the reference model.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "base/digest.h"
#include "grpo/batch_plan.h"
#include "grpo/experience.h"
#include "train/hf_checkpoint.h"
#include "train/trainer.h"

namespace lockstep::grpo {

using ScoreOptions = train::Trainer::ScoreOptions;

/// How a run scores: at its temperature, with entropy if that is logged or in the loss, and from
/// what was kept while sampling.
ScoreOptions score_options(const GrpoRunOptions& options, const RunContext& context);

/// The completions of equal prompts behind one another: the order in which score_old_policy()
/// scores.
std::vector<const Experience*> by_prompt(std::span<const Experience> completions);

/// What the policy says now of each completion. A prompt is computed once for all of its
/// completions, wherever they stand.
std::vector<train::SampleScores> score_policy_now(std::span<const Experience> completions,
                                                  const train::Trainer& policy,
                                                  const ScoreOptions& options);
/// Fills `old_logprobs` with that: for completions that are still trained on when it has changed.
void score_old_policy(std::span<Experience> completions,
                      const train::Trainer& policy,
                      ScoreOptions options);

/// Leaves all tokens out of the loss but the share `quantile` of the largest entropy, over all
/// completions together (`learned`), and returns the least entropy that is learned from: the
/// quantile 1 - `quantile`, between two tokens interpolated as torch.quantile does. One score with
/// entropies for each completion. Source: arXiv:2506.01939.
double mask_by_entropy(std::span<Experience> completions,
                       std::span<const train::SampleScores> scores,
                       double quantile);

/// The KL of each completion with the reference model, summed over its tokens.
std::vector<double> kl_sums(std::span<const Experience> completions, KlEstimator estimator);

/// The model to which the KL term holds the policy: --ref_model, or the model from which training
/// began, also after a resume; with --ref_adapters. Not thread-safe.
class ReferenceModel {
 public:
  /// Loads it, but where an adapter is trained and no --ref_model is named its weights are those of
  /// `base`, the policy's model, which must outlive this. Throws ConfigError if its vocabulary is
  /// not the policy's, and what load_adapter() throws.
  ReferenceModel(const GrpoRunOptions& options,
                 const RunContext& context,
                 const train::LoadedModel& base);

  /// Fills `ref_logprobs`.
  void score(std::vector<Experience>& batch, ScoreOptions options) const;
  /// The bytes of its weights and of their packed form, unless they are the policy's.
  int64_t bytes() const;
  /// Its weights; null where they are the policy's, or have an adapter beside them.
  model::ModelWeights* own_weights() {
    return model_ == &own_ && !adapter_ ? own_.weights.get() : nullptr;
  }
  /// The digest of its checkpoint's tensors, and of its adapter.
  const Digest& digest() const { return digest_; }

 private:
  Digest compute_digest() const;

  /// Empty where the policy's weights are used.
  train::LoadedModel own_;
  const train::LoadedModel* model_ = nullptr;
  std::unique_ptr<model::Adapter> adapter_;
  /// With the modules that the adapter saves; null if it saves none.
  std::unique_ptr<model::ModelWeights> saved_;
  std::unique_ptr<train::Trainer> trainer_;
  Digest digest_;
};

}  // namespace lockstep::grpo
