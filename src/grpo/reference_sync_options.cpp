// SPDX-License-Identifier: Apache-2.0
#include "grpo/reference_sync_options.h"

#include "base/check.h"

namespace lockstep::grpo {

void ReferenceSyncOptions::validate(const LossOptions& loss,
                                    bool trains_adapter,
                                    bool has_ref_adapters) const {
  if (!sync_ref_model) return;
  if (loss.beta == 0)
    fail<ConfigError>("bad-flag", "--sync_ref_model",
                      "expected false with --beta 0, which has no reference model, got true");
  if (trains_adapter)
    fail<ConfigError>("bad-flag", "--sync_ref_model",
                      "expected false where an adapter is trained, got true (the reference is the "
                      "model without it, in the same memory, and a mixture of the two is no "
                      "adapter of that rank; --tuner_type full has a reference of its own)");
  if (has_ref_adapters)
    fail<ConfigError>("bad-flag", "--sync_ref_model",
                      "expected no --ref_adapters with it, got some (the policy is mixed with "
                      "weights: hint: lockstep export --merge_lora true, and --ref_model)");
}

}  // namespace lockstep::grpo
