// SPDX-License-Identifier: Apache-2.0
#include "grpo/policy_step.h"

#include "base/check.h"
#include "tensor/aten.h"

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

/// The load-balancing loss of a step, E sum_e f_e P_e: f_e is the share of an expert among the
/// choices of a token, which has no gradient, P_e its mean probability.
struct RouterBalance {
  double loss = 0;
  /// [E] float32, its derivative by each probability.
  at::Tensor slopes;
};

RouterBalance router_balance(const model::RouterCounts& counts) {
  const auto experts = static_cast<double>(counts.chosen.size(0));
  const at::Tensor shares = counts.chosen.div(counts.tokens);
  return {experts * shares.mul(counts.probabilities).sum().item<double>() / counts.tokens,
          shares.mul(experts / counts.tokens).to(at::kFloat)};
}

}  // namespace

void check_loss(const LossOptions& options, const model::ModelConfig& model) {
  if (options.router_aux_loss_coef > 0 && !model.num_experts)
    fail<ConfigError>("bad-flag", "--router_aux_loss_coef",
                      "expected 0 for a model without experts, got {}",
                      options.router_aux_loss_coef);
}

PolicyGradients policy_gradients(const PolicyStep& step,
                                 train::Trainer& trainer,
                                 const GrpoRunOptions& options,
                                 Metrics& metrics) {
  StepLoss loss(step, options, scores_of_changed(step, trainer, options.loss));
  std::vector<train::Sample> samples;
  for (const Experience& experience : step.completions) samples.push_back(experience.sample);
  PolicyGradients learned;
  ScoreOptions scoring = step.scoring;
  if (const double coefficient = options.loss.router_aux_loss_coef; coefficient > 0) {
    const RouterBalance balance = router_balance(trainer.router_counts(samples, scoring));
    scoring.router_slopes = balance.slopes.mul(coefficient);
    loss.add_term(coefficient * balance.loss);
    metrics.add("aux_loss", balance.loss);
  }
  learned.gradients = trainer.gradients(
      samples, scoring,
      [&](int64_t index, const train::SampleScores& scores, train::SampleGradient gradient) {
        loss.learn(index, scores, gradient);
      });
  int64_t completion = 0;
  for (const train::SampleScores& scores : trainer.scores()) loss.add(completion++, scores);
  if (const train::ReplayCounts& replayed = trainer.replayed(); replayed.choices > 0)
    metrics.add("router_replay/changed_ratio", replayed.changed / replayed.choices,
                replayed.choices);
  loss.report(metrics);
  learned.fresh = loss.fresh();
  learned.entropy = loss.learned_entropy();
  learned.mean_entropies = loss.mean_entropies();
  learned.loss = loss.loss();
  return learned;
}

}  // namespace lockstep::grpo
