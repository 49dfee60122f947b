// Adapters as PEFT writes them: adapter_config.json and adapter_model.safetensors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "model/adapter.h"

namespace lockstep::train {

/// Reads an adapter for a model. Throws ConfigError "missing-adapter", and FormatError as
/// model::parse_adapter_config() and model::Adapter do.
std::unique_ptr<model::Adapter> load_adapter(const std::filesystem::path& directory,
                                             const model::ModelWeights& base);

/// Writes an adapter of `base` into an existing folder as PEFT 0.21 does: two files, float32.
/// `base_name` is what adapter_config.json calls the model.
void write_adapter(const model::Adapter& adapter,
                   const model::ModelWeights& base,
                   const std::string& base_name,
                   const std::filesystem::path& directory);

}  // namespace lockstep::train
