// The names under which an engine's loader takes weights. They are not those of its parameters, but
// those of a checkpoint.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/options.h"
#include "layout/layout.h"
#include "model/logical_model.h"

namespace lockstep::model {

/// How one load_weights() call names experts. All of a call's names follow one of the two: vLLM's
/// hand-written loaders take the first grouped name that they see as the rule for every later one.
enum class LoaderExperts : int {
  /// mlp.experts.N.gate_proj.weight: known to every version.
  kSeparate,
  /// mlp.experts.gate_up_proj: Qwen3.5's loader, and the newest ones.
  kGrouped
};
std::span<const EnumName<LoaderExperts>> enum_names(LoaderExperts);

/// By rank and tensor of `engine`, a vLLM layout of `model`: the names of the checkpoint tensors
/// whose parts it holds, in the order of its boxes. The prefix is the one that the model's class
/// expects. vLLM skips names that begin with "mtp.".
std::vector<std::vector<std::vector<std::string>>> loader_names(const LogicalModel& model,
                                                                const layout::Layout& engine,
                                                                LoaderExperts experts);

}  // namespace lockstep::model
