// Turns the completions of an optimizer step into the gradients of its loss, and into metrics.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "grpo/step_loss.h"

namespace lockstep::grpo {

/// The gradients of a step, and how its forward compares with the sampler.
struct PolicyGradients {
  /// In the order of Trainer::parameters().
  std::vector<at::Tensor> gradients;
  /// Empty where the forward dropped inputs of adapters.
  FreshDifferences fresh;
  /// StepLoss::learned_entropy()
  std::optional<double> entropy;
  /// StepLoss::mean_entropies()
  std::vector<std::optional<double>> mean_entropies;
  /// The step's loss.
  double loss = 0;
};

/// Throws ConfigError if the loss has a term that this model cannot have.
void check_loss(const LossOptions& options, const model::ModelConfig& model);

/// Computes the gradients of the GRPO loss over a step's completions; adds its metrics. A loss of
/// groups scores the completions of earlier weights once before, a load-balancing loss counts the
/// experts' choices.
PolicyGradients policy_gradients(const PolicyStep& step,
                                 train::Trainer& trainer,
                                 const GrpoRunOptions& options,
                                 Metrics& metrics);

}  // namespace lockstep::grpo
