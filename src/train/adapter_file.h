// Adapters as PEFT writes them: adapter_config.json and adapter_model.safetensors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>

#include "model/adapter.h"

namespace lockstep::train {

/// Reads an adapter for a model, which must outlive it. Throws ConfigError "missing-adapter", and
/// FormatError as model::parse_adapter_config() and model::Adapter do.
std::unique_ptr<model::Adapter> load_adapter(const std::filesystem::path& directory,
                                             const model::ModelWeights& base);

}  // namespace lockstep::train
