// SPDX-License-Identifier: Apache-2.0
#include "grpo/policy_step.h"

namespace lockstep::grpo {
namespace {

/// What the policy says now of the completions that StepLoss asks for.
std::vector<train::SampleScores> scores_of_changed(const PolicyStep& step,
                                                   const train::Trainer& trainer,
                                                   const LossOptions& options) {
  if (!StepLoss::needs_scores(options)) return {};
  std::vector<train::Sample> samples;
  for (const Experience* experience : StepLoss::changed(step))
    samples.push_back(experience->sample);
  ScoreOptions scoring = step.scoring;
  scoring.with_entropy = scoring.reuse_kept = false;
  return trainer.score(samples, scoring);
}

}  // namespace

PolicyGradients policy_gradients(const PolicyStep& step,
                                 train::Trainer& trainer,
                                 const GrpoRunOptions& options,
                                 Metrics& metrics) {
  StepLoss loss(step, options, scores_of_changed(step, trainer, options.loss));
  std::vector<train::Sample> samples;
  for (const Experience& experience : step.completions) samples.push_back(experience.sample);
  PolicyGradients learned;
  learned.gradients = trainer.gradients(
      samples, step.scoring,
      [&](int64_t index, const train::SampleScores& scores, train::SampleGradient gradient) {
        loss.learn(index, scores, gradient);
      });
  loss.report(metrics);
  learned.fresh = loss.fresh();
  learned.entropy = loss.learned_entropy();
  learned.loss = loss.loss();
  return learned;
}

}  // namespace lockstep::grpo
