// SPDX-License-Identifier: Apache-2.0
#include "cli/commands/model_command.h"

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "base/output_path.h"
#include "train/adapter_file.h"

namespace lockstep::cli {
namespace {

namespace fs = std::filesystem;

/// What tells that a folder is more than a checkpoint, or none; "" for a checkpoint, of a model or
/// of an adapter: its configuration, weights, and no folder that is not a checkpoint's own.
std::string what_is_foreign(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) return "is no folder";
  if (!fs::exists(folder / "config.json", ignored) &&
      !fs::exists(folder / "adapter_config.json", ignored))
    return "has no config.json";
  bool has_weights = false;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    has_weights |= name.ends_with(".safetensors");
    if (entry.is_directory(ignored) && name != train::kStateFolder &&
        name != train::kNamedTemplates)
      return fmt::format("holds the folder {}", name);
  }
  return has_weights ? "" : "has no weights";
}

}  // namespace

bool check_output_directory(const CommandContext& context,
                            const std::string& directory,
                            bool overwrite) {
  check_output_apart(directory, "--output_dir", context.inputs);
  check_output_path(directory, overwrite, "--output_dir");
  std::error_code ignored;
  const fs::path path = directory;
  if (!fs::exists(fs::symlink_status(path, ignored))) return false;
  if (fs::is_directory(path, ignored) && fs::is_empty(path, ignored)) return true;
  const std::string foreign = what_is_foreign(path);
  if (foreign.empty()) return true;
  fail<ConfigError>("output-exists", "--output_dir",
                    "expected a checkpoint to replace, got {}, which {} (hint: another path, or "
                    "remove it yourself)",
                    directory, foreign);
}

train::LoadedModel load_for_command(const CommandContext& context,
                                    const std::string& directory,
                                    model::WeightUse use) {
  train::LoadedModel loaded = train::load_model(directory, context.common.torch_dtype, use);
  const auto& weights = *loaded.weights;
  const size_t carried = weights.carried().size();
  log_info("{}: {} with {} layers, {:.1f} M parameters in {}{}", directory,
           enum_name(weights.config().family), weights.config().num_hidden_layers,
           static_cast<double>(weights.num_elements()) / 1e6, enum_name(weights.weight_dtype()),
           carried ? fmt::format("; {} other tensors are carried along unchanged", carried) : "");
  return loaded;
}

train::LoadedModel load_for_command(const CommandContext& context,
                                    const std::string& directory,
                                    const std::string& adapter,
                                    model::WeightUse use) {
  train::LoadedModel loaded = load_for_command(context, directory, use);
  loaded.set_adapter(load_adapter_for_command(adapter, loaded.weights->parameters()));
  if (!adapter.empty()) train::warn_of_other_base(adapter, directory);
  return loaded;
}

std::unique_ptr<model::Adapter> load_adapter_for_command(const std::string& directory,
                                                         std::span<const model::Parameter> model) {
  if (directory.empty()) return nullptr;
  auto adapter = train::load_adapter(directory, model);
  int64_t elements = 0;
  for (const auto& parameter : adapter->parameters()) elements += parameter.value.numel();
  for (const model::SavedTensor& saved : adapter->saved()) elements += saved.value.numel();
  log_info("{}: an adapter of {} pairs{}, {} parameters", directory, adapter->targets().size(),
           adapter->saved().empty()
               ? ""
               : fmt::format(" and {} tensors that are trained whole", adapter->saved().size()),
           elements);
  return adapter;
}

std::vector<int64_t> encode_row(text::RowEncoder& encoder,
                                const Json& row,
                                const std::string& where,
                                bool add_generation_prompt) {
  const bool has_ids = row.contains("input_ids"), has_messages = row.contains("messages");
  if (has_ids == has_messages)
    fail<FormatError>("bad-row", where, "expected input_ids or messages, got {}",
                      has_ids ? "both" : "neither");
  if (has_ids) {
    auto ids = text::ids_of(row, "input_ids", encoder.vocab_size(), where);
    if (ids.empty())
      fail<FormatError>("bad-row", where, "expected at least one id in input_ids, got none");
    return ids;
  }
  const text::Row conversation = text::take_conversation(Json(row), where);
  return add_generation_prompt ? encoder.prompt(conversation).ids
                               : encoder.conversation(conversation);
}

}  // namespace lockstep::cli
