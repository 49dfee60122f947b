// Makes the sampler that the flags ask for.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "grpo/batch_plan.h"
#include "grpo/rollout_client.h"
#include "text/tokenizer.h"
#include "train/hf_checkpoint.h"

namespace lockstep::grpo {

/// The sampler of a run: `engine`, in this process over `model`'s own weights, or servers, which
/// must all be there, and to which the first of the run's ranks talks. What is passed must outlive
/// it. Throws what HttpRollout's constructor throws.
std::unique_ptr<RolloutClient> make_rollout(const GrpoRunOptions& options,
                                            const RunContext& context,
                                            const train::LoadedModel& model,
                                            const text::Tokenizer& tokenizer,
                                            rollout::Engine& engine);

}  // namespace lockstep::grpo
