// Files of adapters: adapter_config.json and adapter_model.safetensors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/options.h"
#include "io/safetensors.h"
#include "model/adapter.h"

namespace lockstep::train {

/// Reads an adapter for a model with these parameters. Throws ConfigError "missing-adapter", and
/// FormatError as model::parse_adapter_config() and model::Adapter do.
std::unique_ptr<model::Adapter> load_adapter(const std::filesystem::path& directory,
                                             std::span<const model::Parameter> model);
std::unique_ptr<model::Adapter> load_adapter(const std::filesystem::path& directory,
                                             const model::ModelWeights& base);

/// Warns where an adapter's file says that it was made beside another model than the one in the
/// folder `model`. Folders move, so the last part of the name is compared, with the folder's whole
/// path: that has it in Hugging Face's cache as well ("models--Qwen--Qwen3-0.6B").
void warn_of_other_base(const std::filesystem::path& directory, const std::filesystem::path& model);

/// How routed experts' pairs are written (model/adapter_reader.h).
enum class AdapterFormat : int {
  /// As PEFT 0.21 does.
  kPeft,
  /// As pairs of each expert's gate_proj, up_proj and down_proj. The first two share A, unless the
  /// pair of both is two that do not meet.
  kPerExpert
};
std::span<const EnumName<AdapterFormat>> enum_names(AdapterFormat);

/// An adapter as its two files have it.
struct AdapterFiles {
  /// adapter_config.json
  std::string config;
  /// They may show the adapter's own values.
  std::vector<io::NamedTensor> tensors;
};
/// What write_adapter() writes.
AdapterFiles adapter_files(const model::Adapter& adapter,
                           const std::vector<model::AdapterTarget>& model,
                           const std::string& base_name,
                           AdapterFormat format = AdapterFormat::kPeft);

/// Writes an adapter of a model into an existing folder: PEFT's two files, pairs in float32, saved
/// modules in their own precision. `base_name` is what adapter_config.json calls the model.
void write_adapter(const model::Adapter& adapter,
                   const std::vector<model::AdapterTarget>& model,
                   const std::string& base_name,
                   const std::filesystem::path& directory,
                   AdapterFormat format = AdapterFormat::kPeft);

}  // namespace lockstep::train
