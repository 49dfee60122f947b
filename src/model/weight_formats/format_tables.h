// The tables of all formats, each of which is a class in a file of its own.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "model/weight_formats/layout_spec.h"
#include "model/weight_formats/weight_format.h"

namespace lockstep::model {

/// Published checkpoints, and transformers' parameters, which are grouped checkpoints.
std::unique_ptr<WeightFormat> checkpoint_format(const CheckpointForm& form);
/// The MTP tensors of a checkpoint.
MtpNames checkpoint_mtp_names();
/// A checkpoint with Qwen3-Next's projections.
std::unique_ptr<WeightFormat> qwen3_next_format(const CheckpointForm& form);
/// Keys gate, gdn, out_norm of `name`.
std::unique_ptr<WeightFormat> megatron_format(const LayoutSpec& name);
/// Keys version, dtype and state of `name`, as far as it has them.
std::unique_ptr<WeightFormat> vllm_format(const ModelConfig& config, const LayoutSpec& name);
std::unique_ptr<WeightFormat> lockstep_format();

}  // namespace lockstep::model
