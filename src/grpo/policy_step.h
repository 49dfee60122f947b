// Turns the completions of an optimizer step into the gradients of its loss, and into metrics.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "grpo/batch_plan.h"
#include "grpo/exactness.h"
#include "grpo/experience.h"
#include "grpo/metrics.h"
#include "grpo/policy_scores.h"

namespace lockstep::grpo {

/// The gradients of a step, and how its forward compares with the sampler.
struct PolicyGradients {
  /// In the order of Trainer::parameters().
  std::vector<at::Tensor> gradients;
  /// Empty where the forward dropped inputs of adapters.
  FreshDifferences fresh;
};

/// Computes the gradients of the GRPO loss over a step's completions; adds loss, clipping, KL and
/// entropy to `metrics`.
///
/// A completion whose version is `weight_version` was sampled under the weights as they are now:
/// its old policy is the forward itself. That of the others is old_policy(), which throws if it
/// does not know it.
PolicyGradients policy_gradients(std::span<const Experience> step,
                                 train::Trainer& trainer,
                                 const GrpoRunOptions& options,
                                 const ScoreOptions& scoring,
                                 int64_t weight_version,
                                 Metrics& metrics);

}  // namespace lockstep::grpo
