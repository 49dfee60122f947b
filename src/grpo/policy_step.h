// Learning: the completions of an optimizer step to the gradients of its loss, and the metrics of
// it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "grpo/exactness.h"
#include "grpo/experience.h"
#include "grpo/grpo.h"
#include "grpo/metrics.h"
#include "grpo/policy_scores.h"

namespace lockstep::grpo {

/// What a step's completions teach.
struct PolicyGradients {
  /// In the order of ModelWeights::parameters().
  std::vector<at::Tensor> gradients;
  FreshDifferences fresh;
};

/// Gradients of the GRPO loss over a step's completions; adds loss, clipping, KL and entropy to
/// `metrics`.
///
/// A completion of `weight_version` was sampled under the weights as they are now: its old policy
/// is the forward itself. The others need their `old_logprobs`.
PolicyGradients policy_gradients(std::span<const Experience> step,
                                 train::Trainer& trainer,
                                 const GrpoRunOptions& options,
                                 const ScoreOptions& scoring,
                                 int64_t weight_version,
                                 Metrics& metrics);

}  // namespace lockstep::grpo
