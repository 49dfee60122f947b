// A reference model that follows the policy (TR-DPO).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "grpo/policy_scores.h"
#include "grpo/reference_sync_options.h"
#include "grpo/run_directory.h"
#include "model/weights.h"

namespace lockstep::grpo {

/// reference = alpha policy + (1 - alpha) reference, for every parameter, computed in float32 and
/// rounded once to the reference's dtype. It holds one parameter in memory besides.
/// Source: Gorbatovski et al., arXiv:2404.09656, eq. 5; TRL 1.16 callbacks.py,
/// SyncRefModelCallback.
void mix_weights(model::ModelWeights& reference, const model::ModelWeights& policy, double alpha);

/// Moves the reference model of a run. Not thread-safe.
///
/// Completions that are sampled already keep what the reference said of them when they were.
class ReferenceSync {
 public:
  /// Both must outlive it. Throws ConfigError "bad-flag" for a --ref_model of another shape.
  ReferenceSync(const ReferenceSyncOptions& options,
                ReferenceModel& reference,
                const model::ModelWeights& policy);

  /// Moves it if that is due after `step` optimizer steps.
  void after_step(int64_t step);
  /// Adds what a checkpoint keeps of it, once it has moved.
  void save(LoopState& state) const;
  /// Takes up what save() added. Throws FormatError "bad-resume".
  void restore(const ResumePoint& resume);

 private:
  ReferenceSyncOptions options_;
  model::ModelWeights* reference_;
  const model::ModelWeights* policy_;
  /// After which step it moved last; 0: never.
  int64_t moved_at_ = 0;
};

}  // namespace lockstep::grpo
