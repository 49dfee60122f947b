// The tables: one class a format, in a file of its own.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "model/layouts/format.h"
#include "model/layouts/layout_name.h"

namespace lockstep::model {

/// Published checkpoints, and transformers' parameters, which are grouped checkpoints.
std::unique_ptr<Format> checkpoint_format(const CheckpointForm& form);
/// The MTP tensors of a checkpoint.
MtpNames checkpoint_mtp_names();
/// A checkpoint with Qwen3-Next's projections.
std::unique_ptr<Format> qwen3_next_format(const CheckpointForm& form);
/// Keys gate, gdn, out_norm of `name`.
std::unique_ptr<Format> megatron_format(const LayoutName& name);
std::unique_ptr<Format> vllm_format(const ModelConfig& config, bool is_processed_for_ascend);
std::unique_ptr<Format> lockstep_format();

}  // namespace lockstep::model
