// Whether and how the reference model follows the policy. No libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/options.h"
#include "grpo/objective_options.h"

namespace lockstep::grpo {

struct ReferenceSyncOptions {
  bool sync_ref_model = false;
  int64_t ref_model_sync_steps = 512;
  double ref_model_mixup_alpha = 0.6;

  /// Throws ConfigError "bad-flag" where there is no reference model of its own to be moved.
  void validate(const LossOptions& loss, bool trains_adapter, bool has_ref_adapters) const;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("sync_ref_model", sync_ref_model,
          "Moves the reference model towards the policy every ref_model_sync_steps.");
    visit("ref_model_sync_steps", ref_model_sync_steps, "Steps between two such moves.",
          Range::at_least(1));
    visit("ref_model_mixup_alpha", ref_model_mixup_alpha,
          "The policy's share in it: reference = alpha policy + (1 - alpha) reference.",
          Range::left_open(0, 1));
  }
};

}  // namespace lockstep::grpo
