// SPDX-License-Identifier: Apache-2.0
#include "train/hf_checkpoint.h"

#include <unordered_map>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "tensor/aten.h"

namespace lockstep::train {
namespace {

namespace fs = std::filesystem;

/// Removes a key at every level: transformers writes it as a list and cannot read that back (spec
/// models.md 1.5).
void drop_key(Json& value, const std::string& key) {
  if (value.is_object()) value.erase(key);
  if (value.is_structured())
    for (auto& inner : value) drop_key(inner, key);
}

/// Files that belong to the weights are written anew; folders but that of named chat templates and
/// everything else of a trainer's own are not copied.
bool is_copied(const fs::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  if (!entry.is_regular_file() || name == "config.json" || name.starts_with('.')) return false;
  if (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")) return false;
  for (const char* other :
       {"trainer_state.json", "args.json", "training_args.bin", "lockstep_layout.json"})
    if (name == other) return false;
  for (const char* ending : {".bin", ".pt", ".pth", ".gguf", ".onnx", ".bin.index.json"})
    if (name.ends_with(ending)) return false;
  return true;
}

}  // namespace

void set_dtype(Json& config, model::WeightDtype dtype) {
  const char* name = dtype == model::WeightDtype::kFloat32 ? "float32" : "bfloat16";
  const auto set = [&](Json& level) {
    const char* key = level.contains("torch_dtype") ? "torch_dtype" : "dtype";
    if (level.contains(key)) level[key] = name;
  };
  set(config);
  if (config.contains("text_config")) set(config["text_config"]);
}

model::ModelConfig load_config(const fs::path& directory) {
  const fs::path path = directory / "config.json";
  std::error_code ignored;
  if (!fs::is_directory(directory, ignored))
    fail<ConfigError>("missing-model", directory.string(),
                      "expected a checkpoint directory, got none");
  if (!fs::exists(path, ignored))
    fail<ConfigError>("missing-model", directory.string(),
                      "expected a config.json in it, got none");
  return model::parse_model_config(parse_json_file(path, "bad-config"), path.string());
}

LoadedModel load_model(const fs::path& directory, std::optional<model::WeightDtype> dtype) {
  LoadedModel loaded;
  loaded.directory = directory;
  auto config = load_config(directory);
  loaded.source = std::make_unique<CheckpointSource>(directory);
  loaded.weights = std::make_unique<model::ModelWeights>(std::move(config), *loaded.source, dtype);
  loaded.source->files().release_pages();  // the weights are copies
  return loaded;
}

LoadedModel open_checkpoint(const fs::path& directory) {
  LoadedModel opened;
  opened.directory = directory;
  const auto config = load_config(directory);
  opened.source = std::make_unique<CheckpointSource>(directory);
  model::check_tensors(
      model::describe_parameters(config, model::detect_form(config, *opened.source)), config,
      *opened.source);
  return opened;
}

namespace {

/// The text model's tensors by name with their current values.
std::unordered_map<std::string, at::Tensor> text_tensors(const LoadedModel& model,
                                                         const model::ModelConfig& config) {
  std::unordered_map<std::string, at::Tensor> tensors;
  if (model.weights) {
    model.weights->for_each_tensor(
        [&](const std::string& name, const at::Tensor& value) { tensors[name] = value; });
  } else {
    for (const auto& parameter :
         model::describe_parameters(config, model::detect_form(config, *model.source)))
      for (const auto& piece : parameter.pieces)
        tensors[piece.name] = model.source->tensor(piece.name);
  }
  // A tied checkpoint may ship its head all the same: it stays the embedding.
  if (config.tie_word_embeddings && model.source->contains("lm_head.weight"))
    tensors["lm_head.weight"] = model.weights ? model.weights->embedding().detach()
                                              : model.source->tensor("lm_head.weight");
  return tensors;
}

}  // namespace

void write_checkpoint(const LoadedModel& model,
                      const fs::path& staging,
                      const WriteOptions& options) {
  const fs::path config_path = model.directory / "config.json";
  Json config = parse_json_file(config_path, "bad-config");
  const auto parsed = model::parse_model_config(config, config_path.string());
  const auto current = text_tensors(model, parsed);
  std::vector<io::NamedTensor> tensors;
  std::optional<model::WeightDtype> written = options.dtype;
  // Weights may have been cast on loading as well: config.json says what the matrices are now.
  if (!written && model.weights)
    written = model.weights->dtype() == at::kFloat ? model::WeightDtype::kFloat32
                                                   : model::WeightDtype::kBFloat16;
  for (const std::string& name : model.source->names()) {
    const auto found = current.find(name);
    at::Tensor value = found != current.end() ? found->second : model.source->tensor(name);
    if (options.dtype && found != current.end())
      value = value.to(model::cast_dtype(name, value.scalar_type(), *options.dtype));
    tensors.push_back({name, std::move(value)});
  }
  io::write_safetensors_checkpoint(staging, tensors, options.max_shard_bytes);

  drop_key(config, "ignore_keys_at_rope_validation");
  if (written && *written != parsed.dtype) set_dtype(config, *written);
  write_file(staging / "config.json", dump_json_pretty(config));
  copy_companion_files(model.directory, staging);
}

void copy_companion_files(const fs::path& from, const fs::path& to) {
  for (const auto& entry : fs::directory_iterator(from))
    if (is_copied(entry)) fs::copy_file(entry.path(), to / entry.path().filename());
  copy_named_templates(from, to);
}

void copy_named_templates(const fs::path& from, const fs::path& to) {
  const char* folder = "additional_chat_templates";
  if (!fs::is_directory(from / folder)) return;
  fs::create_directory(to / folder);
  for (const auto& entry : fs::directory_iterator(from / folder))
    if (entry.is_regular_file() && entry.path().extension() == ".jinja")
      fs::copy_file(entry.path(), to / folder / entry.path().filename());
}

}  // namespace lockstep::train
